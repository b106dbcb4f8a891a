// Another program at the same Redis, with the usual npm client:
//
//   watch KEY      read and parse the session again and again until stdin ends; prints {reads, most}
//   create         read one session per line of stdin and store each, as the plain format has it
//   append KEY     read one message per line of stdin; each by GET, edit, SET, as plain writers do
"use strict";
const { createClient } = require("redis");
const readline = require("readline");

const FIELDS = [
  "sessionId", "conversationId", "createdAt", "lastUsedAt", "prompt", "model", "sandbox", "context", "messages", "status",
];

function check(session, least) {
  for (const field of FIELDS) if (!(field in session)) throw new Error(`without ${field}`);
  for (const message of session.messages)
    for (const field of ["type", "content", "timestamp"])
      if (typeof message[field] !== "string") throw new Error(`a message without ${field}`);
  if (session.messages.length < least) throw new Error(`${session.messages.length} messages after ${least}`);
  return session.messages.length;
}

async function watch(client, key) {
  let ended = false, reads = 0, most = 0;
  process.stdin.resume().on("end", () => (ended = true));
  while (!ended) {
    const text = await client.get(key);
    if (text !== null) {
      most = check(JSON.parse(text), most);
      reads++;
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  console.log(JSON.stringify({ reads, most }));
}

async function create(client, session) {
  await client.set(`codex:session:${session.sessionId}`, JSON.stringify(session), { EX: 3600 });
  await client.set(`codex:conversation:${session.conversationId}`, session.sessionId, { EX: 3600 });
  await client.sAdd(`user:sessions:${session.userId}`, session.sessionId);
}

async function append(client, key, message) {
  const session = JSON.parse(await client.get(key));
  session.messages.push(message);
  await client.set(key, JSON.stringify(session), { EX: 3600 });
}

async function main() {
  const [url, verb, key] = process.argv.slice(2);
  const client = createClient({ url });
  await client.connect();
  if (verb === "watch") await watch(client, key);
  else
    for await (const line of readline.createInterface({ input: process.stdin }))
      await (verb === "create" ? create(client, JSON.parse(line)) : append(client, key, JSON.parse(line)));
  await client.quit();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
