// Turns as tasks, by the Tasks extension's own client: node mcp_tasks.mjs URL TOKEN FOLDER
// Prints what it saw as one JSON object.
import { createRequire } from "node:module";
const require = createRequire(process.env.NODE_PATH + "/");
const load = (name) => import(require.resolve(name));
const { Client, StreamableHTTPClientTransport } = await load("@modelcontextprotocol/client");
const { createTaskSessionFromClient } = await import(
  `${process.env.NODE_PATH}/@modelcontextprotocol/ext-tasks/dist/client/index.js`
);

const [url, token, cwd] = process.argv.slice(2);
const protocolVersion = "2026-07-28";
const clientInfo = { name: "tasks-test", version: "1" };
const capabilities = { elicitation: { form: {} }, extensions: { "io.modelcontextprotocol/tasks": {} } };
const Authorization = `Bearer ${token}`;

// What the SDK leaves to its host: a request as it is, and its answer. One at a time, each on its own connection.
let last = 0;
const seen = { errors: [], asked: [], statuses: [], methods: [] };
async function rawDispatch(request, { signal } = {}) {
  seen.methods.push(request.method);
  const name = request.params.name ?? request.params.taskId;
  const response = await fetch(url, {
    method: "POST",
    signal,
    headers: {
      Authorization, "Content-Type": "application/json", Accept: "application/json, text/event-stream",
      "MCP-Protocol-Version": protocolVersion, "Mcp-Method": request.method, "Mcp-Name": name,
    },
    body: JSON.stringify({ jsonrpc: "2.0", id: ++last, ...request }),
  });
  const { result, error } = await response.json();
  return error ? { kind: "error", error } : { kind: "result", result };
}

async function open() {
  const client = new Client(clientInfo, { capabilities, versionNegotiation: { mode: { pin: protocolVersion } } });
  await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers: { Authorization } } }));
  const v2RequestFraming = { protocolVersion, clientInfo, clientCapabilities: capabilities };
  const session = createTaskSessionFromClient(client, {
    endpointId: "daemon", rawDispatch, v2RequestFraming,
    onInputRequest: (request) => {
      seen.asked.push(request.params.message);
      return { action: "accept", content: {} };
    },
    onError: (error) => seen.errors.push(String(error)),
  });
  return { client, session };
}

const { client, session } = await open();
seen.tools = (await client.listTools()).tools.length;
const first = await session.callTool("codex", { prompt: "[[delay 300]]" });
seen.kind = first.kind;
for await (const event of first.updates()) if (event.type === "task") seen.statuses.push(event.task.status);
const outcome = await first.result();
seen.first = outcome.result.structuredContent;

// Somebody else goes on with it.
const second = await session.callTool("codex-reply", { prompt: "[[delay 300]]", threadId: seen.first.threadId });
let reference;
await second.handoff((given) => void (reference = given));
const other = await open();
const resumed = await other.session.resumeTask(reference);
seen.second = (await resumed.result()).result.structuredContent;
await other.session.close();
await other.client.close();

const bold = await session.callTool("codex", {
  prompt: "[[escalate echo out; pwd]]", "approval-policy": "on-request", sandbox: "read-only", cwd,
});
seen.bold = (await bold.result()).result.structuredContent;

const long = await session.callTool("codex", { prompt: "[[stall]]" });
await long.cancel();
seen.cancelled = (await long.result().catch((error) => ({ status: String(error) }))).status;
await session.close();
await client.close();
console.log(JSON.stringify(seen));
