// Dials the node at the multiaddr given, pings it, asks it who it is, and prints one JSON line.
// Promise.withResolvers is in Node from version 22 on; libp2p needs it.
Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new Promise((yes, no) => { resolve = yes; reject = no })
  return { promise, resolve, reject }
}

const { createLibp2p } = await import('libp2p')
const { tcp } = await import('@libp2p/tcp')
const { noise } = await import('@chainsafe/libp2p-noise')
const { yamux } = await import('@chainsafe/libp2p-yamux')
const { identify } = await import('@libp2p/identify')
const { ping } = await import('@libp2p/ping')
const { multiaddr } = await import('@multiformats/multiaddr')

const client = await createLibp2p({
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify({ runOnConnectionOpen: false }), ping: ping() }
})
const connection = await client.dial(multiaddr(process.argv[2]))
const roundTripMs = await client.services.ping.ping(connection.remotePeer)
const told = await client.services.identify.identify(connection)
console.log(JSON.stringify({
  peerId: connection.remotePeer.toString(),
  encryption: connection.encryption,
  multiplexer: connection.multiplexer,
  roundTripMs,
  identified: told.peerId.toString(),
  protocols: told.protocols
}))
await client.stop()
process.exit(0)
