// `grpc_client.js HOST:PORT CONNECTIONS`: reads lines "CALLS STREAMS", calls so often, so many at once, and says how many were OK.
'use strict'
const grpc = require('@grpc/grpc-js')
const readline = require('readline')
const [target, connections] = process.argv.slice(2)
const same = (value) => value
const clients = Array.from({ length: Number(connections) },
  () => new grpc.Client(target, grpc.credentials.createInsecure(), { 'grpc.use_local_subchannel_pool': 1 }))

function one (client) {
  return new Promise((resolve) => {
    client.makeUnaryRequest('/sidelight.test.Interop/Unary', same, same, Buffer.from('10'), (error) => resolve(error ? 0 : 1))
  })
}

async function main () {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [calls, streams] = line.split(' ').map(Number)
    let left = calls
    let good = 0
    const worker = async (client) => { while (left-- > 0) good += await one(client) }
    await Promise.all(clients.flatMap((client) => Array.from({ length: streams }, () => worker(client))))
    console.log(good)
  }
  for (const client of clients) client.close()
}
main()
