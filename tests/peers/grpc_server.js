// `grpc_server.js HOST PORT REPORT`: grpc-js; counts its calls.
'use strict'
const fs = require('fs')
const grpc = require('@grpc/grpc-js')
const [host, port, report] = process.argv.slice(2)
const same = (value) => value
const service = {
  Unary: {
    path: '/sidelight.test.Interop/Unary', requestStream: false, responseStream: false,
    requestSerialize: same, requestDeserialize: same, responseSerialize: same, responseDeserialize: same
  }
}
let calls = 0
const server = new grpc.Server({ 'grpc.max_concurrent_streams': 1000 })
server.addService(service, { Unary: (call, answer) => { calls += 1; answer(null, Buffer.alloc(10)) } })
setInterval(() => {
  fs.writeFileSync(report + '.new', String(calls))
  fs.renameSync(report + '.new', report)
}, 50)
server.bindAsync(`${host}:${port}`, grpc.ServerCredentials.createInsecure(), () => {})
