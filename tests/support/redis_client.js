// Another program at the same Redis, with the usual npm client:
//
//   watch SID CID USER   read and check all keys of a session again and again until stdin ends; prints {reads, most}
//   create               read one session per line of stdin and store each, as the plain format has it
//   append KEY           read one message per line of stdin; each by GET, edit, SET, as plain writers do
"use strict";
const { createClient } = require("redis");
const readline = require("readline");

const FIELDS = [
  "sessionId", "conversationId", "createdAt", "lastUsedAt", "prompt", "model", "sandbox", "context", "messages", "status",
];

function fail(what, session) {
  throw new Error(`${what}: ${JSON.stringify(session).slice(0, 2000)}`);
}

// `last` is what was read before: a session only grows.
function check(session, sid, cid, last) {
  for (const field of FIELDS) if (!(field in session)) fail(`without ${field}`, session);
  if (session.sessionId !== sid || session.conversationId !== cid) fail("of another id", session);
  if (!["active", "failed"].includes(session.status)) fail("in no known state", session);
  for (const time of [session.createdAt, session.lastUsedAt, ...session.messages.map((message) => message.timestamp)])
    if (typeof time !== "string" || new Date(time).toISOString() !== time) fail(`${time} is no time`, session);
  for (const message of session.messages)
    for (const field of ["type", "content"])
      if (typeof message[field] !== "string") fail(`a message without ${field}`, session);
  if (session.messages.length !== session.messageCount) fail("miscounted", session);
  if (!last) return;
  if (session.lastUsedAt < last.lastUsedAt || session.createdAt !== last.createdAt) fail("back in time", session);
  last.messages.forEach((message, n) => {
    if (JSON.stringify(session.messages[n]) !== JSON.stringify(message)) fail(`message ${n} changed`, session);
  });
}

async function watch(client, sid, cid, user) {
  let ended = false, reads = 0, last = null;
  process.stdin.resume().on("end", () => (ended = true));
  while (!ended) {
    const [text, named, members] = await Promise.all([
      client.get(`codex:session:${sid}`), client.get(`codex:conversation:${cid}`), client.sMembers(`user:sessions:${user}`),
    ]);
    const session = JSON.parse(text);
    check(session, sid, cid, last);
    if (named !== sid) throw new Error(`the conversation is of ${named}`);
    if (!members.includes(sid)) throw new Error(`the user has ${members}`);
    last = session;
    reads++;
    await new Promise((resolve) => setImmediate(resolve));
  }
  console.log(JSON.stringify({ reads, most: last.messages.length }));
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
  const [url, verb, ...words] = process.argv.slice(2);
  const client = createClient({ url });
  await client.connect();
  if (verb === "watch") await watch(client, ...words);
  else
    for await (const line of readline.createInterface({ input: process.stdin }))
      await (verb === "create" ? create(client, JSON.parse(line)) : append(client, words[0], JSON.parse(line)));
  await client.quit();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
