import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

export class Exporter {
  static async start(program, host) {
    const exporter = await Exporter.startUnready(program, host);
    await exporter.#ready();
    return exporter;
  }

  // As `start`, but the exporter may not have read anything yet.
  static async startUnready(program, host) {
    const exporter = new Exporter();
    Object.assign(exporter, { program, options: host.options() });
    await exporter.#start(["--web.listen-address=127.0.0.1:0"]);
    return exporter;
  }

  // Starts at the same address as before.
  async startAgain() {
    await this.#start([`--web.listen-address=${this.address}`]);
    await this.#ready();
  }

  async #ready() {
    while ((await fetch(`${this.url}/-/ready`)).status !== 200) await new Promise(setImmediate);
  }

  async #start(options) {
    this.process = spawn(this.program, [...this.options, ...options], { stdio: ["ignore", "ignore", "pipe"] });
    const log = [];
    this.address = await new Promise((listening, failed) => {
      this.process.on("error", failed);
      this.process.on("exit", () => failed(new Error(`the exporter has ended:\n${log.join("\n")}`)));
      createInterface({ input: this.process.stderr }).on("line", line => {
        log.push(line);
        const address = /message=listening.* address=(\S+)/.exec(line)?.[1];
        if (address) listening(address);
      });
    });
    this.url = `http://${this.address}`;
  }

  // Makes it read again.
  reread() {
    this.process.kill("SIGHUP");
  }

  async stop() {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const ended = new Promise(exited => this.process.once("exit", exited));
    this.process.kill();
    await ended;
  }
}
