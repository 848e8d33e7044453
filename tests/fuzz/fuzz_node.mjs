// How does Node's HTTP server read these bytes?
//
// Standard input: a JSON list of base64 texts, each what a connection carries. Standard output: a JSON list with, for
// each, its requests as [method, target, [name, value, ...], body in base64] and the word of the error that ended it.
import http from 'node:http';
import net from 'node:net';

const seen = new Map(); // a connection's port -> what was read on it
const server = http.createServer((request, response) => {
  const at = seen.get(request.socket.remotePort);
  const entry = [request.method, request.url, request.rawHeaders, null];
  at.requests.push(entry);
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    entry[3] = Buffer.concat(parts).toString('base64');
    response.end();
  });
});
server.on('clientError', (error, socket) => {
  const at = seen.get(socket.remotePort);
  if (at) at.error = error.code ?? 'error';
  socket.destroy();
});
for (const asked of ['upgrade', 'connect']) {
  server.on(asked, (request, socket) => {
    seen.get(socket.remotePort).error = asked;
    socket.destroy();
  });
}

function read(data) {
  return new Promise((resolve) => {
    const at = { requests: [], error: null };
    const socket = net.connect(server.address().port, '127.0.0.1', () => {
      seen.set(socket.localPort, at);
      socket.end(data);
    });
    socket.on('error', () => {});
    socket.on('data', () => {});
    socket.on('close', () => resolve(at));
  });
}

const input = [];
for await (const part of process.stdin) input.push(part);
server.keepAliveTimeout = 0;
server.maxRequestsPerSocket = 0;
server.listen(0, '127.0.0.1', async () => {
  const results = [];
  for (const text of JSON.parse(Buffer.concat(input))) results.push(await read(Buffer.from(text, 'base64')));
  process.stdout.write(JSON.stringify(results), () => process.exit(0));
});
