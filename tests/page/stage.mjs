// A machine of the lab that stays up: real devices, paths that are broken by commands, and ports of ours that lead into it.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { createInterface } from "node:readline";

const LAB = ["test", "--quiet", "--release", "--locked", "--features", "lab", "--test", "lab", "--", "--stage"];

export class Stage {
  // Boots it; its exporter is then found at `url`.
  static async start(name) {
    const stage = new Stage();
    const port = await freePort();
    stage.url = `http://127.0.0.1:${port}`;
    stage.process = spawn("cargo", [...LAB, name, `${port}:9100`], { stdio: ["pipe", "pipe", "inherit"] });
    stage.lines = createInterface({ input: stage.process.stdout })[Symbol.asyncIterator]();
    try {
      assert.match(await stage.#answer(), /^ready: /);
    } catch (error) {
      await stage.stop();
      throw error;
    }
    return stage;
  }

  // Has it done.
  async do(command) {
    this.process.stdin.write(`${command}\n`);
    assert.equal(await this.#answer(), `done: ${command}`);
  }

  async #answer() {
    const { value, done } = await this.lines.next();
    if (done) throw new Error("the machine is gone");
    return value;
  }

  async stop() {
    if (this.process.exitCode !== null) return;
    const ended = once(this.process, "exit");
    this.process.stdin.end();
    await ended;
  }
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}
