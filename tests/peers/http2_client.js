// `http2_client.js URL CONNECTIONS`: reads lines "CALLS STREAMS", asks so often, so many at once, and says how many were answered.
'use strict'
const http2 = require('http2')
const readline = require('readline')
const [url, connections] = process.argv.slice(2)
const at = new URL(url)
const sessions = Array.from({ length: Number(connections) }, () => http2.connect(at.origin))

function one (session) {
  return new Promise((resolve) => {
    const request = session.request({ ':path': at.pathname })
    let status = 0
    request.on('response', (headers) => { status = headers[':status'] })
    request.on('error', () => resolve(0))
    request.on('close', () => resolve(status === 200 ? 1 : 0))
    request.resume()
    request.end()
  })
}

async function main () {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [calls, streams] = line.split(' ').map(Number)
    let left = calls
    let good = 0
    const worker = async (session) => { while (left-- > 0) good += await one(session) }
    await Promise.all(sessions.flatMap((session) => Array.from({ length: streams }, () => worker(session))))
    console.log(good)
  }
  for (const session of sessions) session.close()
}
main()
