// Drives a server with autocannon: one JSON object in on standard input, one out.
//   {"url", "method", "seconds", "connections", "headers": {…}, "people": [{"headers": {…}, "body": "…"}]}
// Each request is the next person's, and {id} in a body becomes a new UUID.
const autocannon = require('autocannon')
const crypto = require('crypto')

const given = JSON.parse(require('fs').readFileSync(0, 'utf8'))
let turn = 0

function setupRequest(request) {
  const person = given.people[turn++ % given.people.length]
  const body = person.body && person.body.replace('{id}', crypto.randomUUID())
  return { ...request, headers: { ...given.headers, ...person.headers }, body }
}

autocannon({
  url: given.url,
  connections: given.connections,
  duration: given.seconds,
  requests: [{ method: given.method, setupRequest }]
}).then(result => console.log(JSON.stringify({
  answers: result['2xx'] + result['3xx'],
  failures: result['4xx'] + result['5xx'] + result.errors + result.timeouts,
  redirects: result['3xx'],
  seconds: result.duration,
  p50_ms: result.latency.p50,
  p99_ms: result.latency.p99
})))
