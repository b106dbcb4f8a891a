// A client made with the TypeScript SDK, as editors are: node mcp_client.mjs URL TOKEN | COMMAND ARG…
// Does what editors do, and prints what it saw as one JSON object.
import { createRequire } from "node:module";
const require = createRequire(process.env.NODE_PATH + "/");
const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
const { StdioClientTransport } = require("@modelcontextprotocol/sdk/client/stdio.js");
const { StreamableHTTPClientTransport } = require("@modelcontextprotocol/sdk/client/streamableHttp.js");
const { CallToolResultSchema, ElicitRequestSchema } = require("@modelcontextprotocol/sdk/types.js");

const [target, ...rest] = process.argv.slice(2);
const transport = target.startsWith("http://")
  ? new StreamableHTTPClientTransport(new URL(target), {
      requestInit: { headers: { Authorization: `Bearer ${rest[0]}` } },
    })
  : new StdioClientTransport({ command: target, args: rest });
const client = new Client({ name: "sdk-test", version: "1" }, { capabilities: { elicitation: {} } });
const seen = { errors: [], asked: [] };
client.setRequestHandler(ElicitRequestSchema, ({ params }) => {
  seen.asked.push(params.message);
  return { action: "accept", content: {} };
});
client.onerror = (error) => seen.errors.push(String(error));

// The SDK checks structuredContent against the outputSchema of each tool that it has listed.
const call = (name, args, options) => client.callTool({ name, arguments: args }, undefined, options);

await client.connect(transport);
seen.server = client.getServerVersion().name;
seen.tools = (await client.listTools()).tools;

const steps = [];
const first = await call("codex", { prompt: "[[deltas 10 20]]" }, { onprogress: (p) => steps.push(p.progress) });
seen.progress = steps;
seen.first = first.structuredContent;
const threadId = first.structuredContent.threadId;
seen.second = (await call("codex-reply", { prompt: "and now?", threadId })).structuredContent;
seen.history = (await call("codex-history", { threadId })).structuredContent;

// What Codex wants to do outside of its sandbox is asked for on the way.
const bold = { prompt: "[[escalate echo out; pwd]]", "approval-policy": "on-request", sandbox: "read-only", cwd: process.cwd() };
seen.bold = (await call("codex", bold)).structuredContent;

// A long turn as a task: an id at once, polled until it is done.
const task = [];
const asTask = { name: "codex-reply", arguments: { prompt: "[[delay 300]]", threadId } };
for await (const message of client.experimental.tasks.callToolStream(asTask, CallToolResultSchema, { task: { ttl: 60000 } }))
  task.push(message);
seen.task = [...new Set(task.map((message) => message.type))];
seen.taskResult = task.at(-1).result?.structuredContent;

const stop = new AbortController();
const begun = Date.now();
setTimeout(() => stop.abort("enough"), 300);
seen.cancelled = await call("codex-reply", { prompt: "[[stall]]", threadId }, { signal: stop.signal })
  .then(() => "answered", (error) => String(error));
seen.cancelledAfter = Date.now() - begun;
await client.ping();
seen.unknown = await call("no-such-tool", {}).then(() => "answered", (error) => error.code);
await client.close();
console.log(JSON.stringify(seen));
