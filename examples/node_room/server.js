// A WebSocket room in plain Node, without a package and without a word about us: each room is in this process's memory.
//
//   stateful-route run --service rooms --uid path:/rooms/{uid} --port 8000 -- node server.js

const { createHash } = require("node:crypto");
const { createServer } = require("node:http");

const rooms = new Map(); // name -> { history, members }
const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"; // RFC 6455, 1.3

function room(url) {
  const name = url.split("/")[2];
  if (!rooms.has(name)) rooms.set(name, { history: [], members: new Set() });
  return rooms.get(name);
}

function frame(text, opcode = 1) {
  const body = Buffer.from(text);
  const head = body.length < 126 ? [0x80 | opcode, body.length] : [0x80 | opcode, 126, body.length >> 8, body.length & 255];
  return Buffer.concat([Buffer.from(head), body]);
}

// Return the first frame of what has come, and the rest; undefined if it is not whole yet. Clients send less than 64 kB.
function unframe(data) {
  const length = data.length < 2 ? 0 : data[1] & 127;
  const start = length === 126 ? 4 : 2;
  if (data.length < start + 4) return undefined;
  const size = length === 126 ? data.readUInt16BE(2) : length;
  const end = start + 4 + size;
  if (data.length < end) return undefined;
  const mask = data.subarray(start, start + 4);
  const body = Buffer.from(data.subarray(start + 4, end).map((byte, at) => byte ^ mask[at % 4]));
  return { opcode: data[0] & 15, body, rest: data.subarray(end) };
}

const server = createServer((request, response) => {
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify({ history: room(request.url).history, pid: process.pid }));
});

server.on("upgrade", (request, socket) => {
  const { history, members } = room(request.url);
  const accept = createHash("sha1").update(request.headers["sec-websocket-key"] + GUID).digest("base64");
  socket.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
  socket.write(`Sec-WebSocket-Accept: ${accept}\r\n\r\n`);
  socket.write(frame(JSON.stringify({ history, pid: process.pid })));
  members.add(socket);
  let data = Buffer.alloc(0);
  socket.on("data", (more) => {
    data = Buffer.concat([data, more]);
    for (let next = unframe(data); next; next = unframe(data)) {
      data = next.rest;
      if (next.opcode === 1) {
        const said = JSON.parse(next.body);
        history.push(said);
        for (const member of members) member.write(frame(JSON.stringify({ said })));
      } else if (next.opcode === 8) {
        socket.end(frame(next.body, 8));
      } else if (next.opcode === 9) {
        socket.write(frame(next.body, 10));
      }
    }
  });
  socket.on("close", () => members.delete(socket));
  socket.on("error", () => socket.destroy());
});

server.listen(process.env.PORT ?? 8000, "127.0.0.1");
