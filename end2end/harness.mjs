// A real coordinator on a free port, real agents on a small slice of Fashion-MNIST, a real headless Chromium.
// Every child is ended by its own handle; what the coordinator and its clients printed is shown when a test fails.
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const program = join(root, "target", "release", "fedlearn");
const browserPath = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/google-chrome"].find((p) => p && existsSync(p));
export const PATIENCE_MS = 120_000;

async function freePort() {
  const server = createServer();
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

class Process {
  constructor(args) {
    this.output = "";
    this.child = spawn(program, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.child.stdout, this.child.stderr]) stream.on("data", (text) => (this.output += text));
    this.ended = new Promise((done) => this.child.on("exit", done));
  }

  async stop(signal = "SIGTERM") {
    this.child.kill(signal);
    return this.ended;
  }
}

export class World {
  static async start(settings = []) {
    const world = new World();
    world.folder = mkdtempSync(join(tmpdir(), "fedlearn-e2e-"));
    world.port = await freePort();
    world.url = `http://127.0.0.1:${world.port}`;
    world.settings = settings;
    world.agents = [];
    await world.startCoordinator();
    world.token = /Admin token: (\w+)/.exec(world.coordinator.output)[1];
    world.browser = await chromium.launch({
      executablePath: browserPath,
      args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync"],
    });
    return world;
  }

  async startCoordinator() {
    this.coordinator = new Process(
      ["serve", "--listen", `127.0.0.1:${this.port}`, "--data-dir", this.folder, ...this.settings]);
    await until(() => /Dashboard: /.test(this.coordinator.output), "the coordinator listens");
  }

  async stopCoordinator() {
    await this.coordinator.stop();
  }

  join(name, images, part = "1/1") {
    const agent = new Process(["join", this.url, "--name", name, "--partition", part, "--limit", `${images}`,
      "--threads", "1"]);
    this.agents.push(agent);
    return agent;
  }

  async snapshot() {
    const reply = await fetch(`${this.url}/api/v1/runs/default`);
    return reply.json();
  }

  // What the operator does from elsewhere: a JSON merge patch over the newest configuration.
  async configure(patch) {
    const { config_version } = await this.snapshot();
    const headers = {
      Authorization: `Bearer ${this.token}`, "Content-Type": "application/json", "If-Match": `"${config_version}"`,
    };
    const reply = await fetch(`${this.url}/api/v1/runs/default`, { method: "PATCH", headers, body: JSON.stringify(patch) });
    if (!reply.ok) throw new Error(`PATCH ${JSON.stringify(patch)}: ${reply.status} ${await reply.text()}`);
  }

  // A client without an agent, for what no agent of ours would do.
  async guest(name) {
    const api = `${this.url}/api/v1/runs/default`;
    const body = JSON.stringify({ name, samples: 100 });
    const reply = await fetch(`${api}/clients`, { method: "POST", headers: { "Content-Type": "application/json" }, body });
    const { client_id, token } = await reply.json();
    return {
      id: client_id,
      call: (method, path, options = {}) =>
        fetch(api + path, { method, ...options, headers: { Authorization: `Bearer ${token}`, ...options.headers } }),
    };
  }

  // A page that fails the test if it ever logs an error.
  async page(options = {}) {
    const context = await this.browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
    context.setDefaultTimeout(PATIENCE_MS);
    const page = await context.newPage();
    page.problems = [];
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) page.problems.push(message.text());
    });
    page.on("pageerror", (error) => page.problems.push(String(error)));
    return page;
  }

  async operator(options) {
    const page = await this.page(options);
    await page.goto(`${this.url}/login#${this.token}`);
    await page.waitForURL(`${this.url}/`);
    await hydrated(page);
    return page;
  }

  async end() {
    await this.browser?.close();
    await Promise.all(this.agents.map((agent) => agent.stop()));
    await this.stopCoordinator();
    rmSync(this.folder, { recursive: true, force: true });
  }

  log() {
    return [this.coordinator, ...this.agents].map((process) => process.output).join("\n---\n");
  }
}

export async function hydrated(page) {
  await page.waitForSelector("[data-hydrated=true]");
}

export async function until(condition, what) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`waited ${PATIENCE_MS / 1000} s in vain until ${what}`);
    await new Promise((next) => setTimeout(next, 50));
  }
}

export const points = async (page) => Number(await page.getByTestId("chart-accuracy").getAttribute("data-points"));
export const row = (page, name) => page.getByTestId("client-row").filter({ hasText: name });
export const state = (page, name) => row(page, name).getAttribute("data-state");
