// A machine of the lab that keeps running: real devices, commands that break paths, and local ports
// that lead into it.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

const LAB = ["--quiet", "lab", "--stage"];
// The machine is emulated, and may have only one processor. In milliseconds, as all times here.
export const PATIENCE = 60000;
const BOOT = 5 * PATIENCE;
const FAREWELL = 10000;

export class Stage {
  // Boots the machine for this test, and stops it at the test's end. `url` is the address of its
  // exporter.
  static async start(name, t) {
    const stage = new Stage();
    const port = await freePort();
    stage.url = `http://127.0.0.1:${port}`;
    stage.process = spawn("cargo", [...LAB, name, `${port}:9100`], { stdio: ["pipe", "pipe", "inherit"] });
    t.after(() => stage.#stop());
    // A write to a process that has ended fails. The missing response reports that.
    stage.process.stdin.on("error", () => {});
    stage.lines = createInterface({ input: stage.process.stdout })[Symbol.asyncIterator]();
    assert.match(await stage.#answer(BOOT), /^ready: /);
    return stage;
  }

  // Sends a command, and waits until it is done.
  async do(command) {
    this.process.stdin.write(`${command}\n`);
    assert.equal(await this.#answer(PATIENCE), `done: ${command}`);
  }

  async #answer(patience) {
    const line = await Promise.race([this.lines.next(), sleep(patience, undefined, { ref: false })]);
    if (!line) throw new Error(`the machine has not answered for ${patience / 1000} seconds`);
    if (line.done) throw new Error("the machine is gone");
    return line.value;
  }

  // The process ends when its standard input ends.
  async #stop() {
    const { process } = this;
    process.stdin.end();
    if (process.exitCode !== null || process.signalCode !== null) return;
    const late = setTimeout(() => process.kill("SIGKILL"), FAREWELL);
    await once(process, "exit");
    clearTimeout(late);
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
