// `http2_server.js HOST PORT REPORT`: HTTP/2 in clear text by Node's own library; counts its requests.
'use strict'
const fs = require('fs')
const http2 = require('http2')
const [host, port, report] = process.argv.slice(2)
let requests = 0
const server = http2.createServer({ settings: { maxConcurrentStreams: 1000 } }, (request, response) => {
  requests += 1
  request.resume()
  response.end('hello, this is node')
})
setInterval(() => {
  fs.writeFileSync(report + '.new', String(requests))
  fs.renameSync(report + '.new', report)
}, 50)
server.listen(Number(port), host)
