// A made-up host for the exporter: a sysfs tree with Fibre Channel paths, and a multipathd on a
// socket. It needs no root and no devices.

import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { dirname, join, relative } from "node:path";

const PORTS = ["0x10000090fa000005", "0x10000090fa000006"];
const FIRST_SCSI_HOST = 5;

export class Host {
  // `devices` of `paths` each, half of them by each of the two ports. A state is "active" or
  // "failed", by device and path.
  constructor({
    devices = 0, paths = 4, ports = PORTS.map(() => "Online"), names = index => `mpath${letters(index)}`,
    state = () => "active",
  }) {
    this.root = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : "/tmp", "multipath-page-"));
    Object.assign(this, { devices, paths, ports, names, state });
    for (const name of ["sys/block", "sys/class", "sys/devices", "udev"]) mkdirSync(join(this.root, name), { recursive: true });
    for (const port of PORTS.keys()) this.#addPort(port);
    for (let device = 0; device < devices; device++) this.#addDevice(device);
    this.socket = join(this.root, "multipathd.socket");
    this.server = createServer(connection => {
      connection.on("error", () => {});
      connection.on("data", async question => {
        await this.silence;
        connection.end(this.#answer(question.subarray(8, -1).toString()));
      });
    });
  }

  async start() {
    await new Promise(listening => this.server.listen(this.socket, listening));
    return this;
  }

  // From now on multipathd answers nothing, until the returned function is called.
  mute() {
    let speak;
    this.silence = new Promise(resolve => (speak = resolve));
    return speak;
  }

  // The options that make an exporter read this host and nothing else, and only on a signal
  // (SIGHUP).
  options() {
    return [
      "--no-collector.dm", "--no-collector.nvme", `--path.sysfs=${this.root}/sys`, `--path.udev.data=${this.root}/udev`,
      `--multipathd.socket=${this.socket}`, "--multipathd.timeout=1h", "--resync.interval=1h", "--reread.interval=1h",
    ];
  }

  remove() {
    this.server.close();
    rmSync(this.root, { recursive: true });
  }

  wwid(device) {
    return `3600a098000aad1e3${(0x64e45f2c0000 + device).toString(16).padStart(16, "0")}`;
  }

  disk(device, path) {
    return `sd${letters(device * this.paths + path)}`;
  }

  #write(file, content) {
    const path = join(this.root, "sys", file);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, `${content}\n`);
  }

  #link(from, to) {
    const path = join(this.root, "sys", from);
    mkdirSync(dirname(path), { recursive: true });
    symlinkSync(relative(dirname(path), join(this.root, "sys", to)), path);
  }

  #scsiHost(port) {
    return `devices/pci0000:00/0000:01:00.${port}/host${FIRST_SCSI_HOST + port}`;
  }

  #port(port) {
    return `${this.#scsiHost(port)}/fc_host/host${FIRST_SCSI_HOST + port}`;
  }

  #addPort(port) {
    const host = FIRST_SCSI_HOST + port;
    this.#write(`${this.#port(port)}/port_name`, PORTS[port]);
    this.#write(`${this.#port(port)}/port_state`, this.ports[port]);
    this.#link(`class/fc_host/host${host}`, this.#port(port));
    for (let target = 0; target < this.paths / 2; target++) {
      const name = `rport-${host}:0-${target}`;
      const directory = `${this.#scsiHost(port)}/${name}/fc_remote_ports/${name}`;
      const files = {
        port_name: `0x20${port + 1}${target}00a098aad1e3`, node_name: "0x200000a098aad1e3", port_state: "Online",
        roles: "FCP Target", scsi_target_id: target,
      };
      for (const [file, content] of Object.entries(files)) this.#write(`${directory}/${file}`, content);
      this.#link(`class/fc_remote_ports/${name}`, directory);
    }
  }

  #addDevice(device) {
    const map = `devices/virtual/block/dm-${device}`;
    const files = {
      dev: `254:${device}`, size: 2147483648, ro: 0, inflight: "0 0", diskseq: 10000 + device,
      "dm/name": this.names(device), "dm/uuid": `mpath-${this.wwid(device)}`, "dm/suspended": 0,
      // A volume group holds it.
      "holders/dm-999/dev": "254:999",
    };
    for (const [file, content] of Object.entries(files)) this.#write(`${map}/${file}`, content);
    this.#link(`block/dm-${device}`, map);
    for (let path = 0; path < this.paths; path++) {
      const [port, target] = this.#way(path);
      const host = FIRST_SCSI_HOST + port;
      const scsi = `${this.#scsiHost(port)}/rport-${host}:0-${target}/target${host}:0:${target}/${host}:0:${target}:${device}`;
      const block = `${scsi}/block/${this.disk(device, path)}`;
      const attributes = { state: "running", vendor: "NETAPP", model: "LUN C-Mode", rev: "9131" };
      for (const [file, content] of Object.entries(attributes)) this.#write(`${scsi}/${file}`, content);
      for (const [file, content] of Object.entries({ dev: this.#devno(device, path), size: 2147483648, ro: 0 }))
        this.#write(`${block}/${file}`, content);
      this.#link(`${block}/device`, scsi);
      this.#link(`block/${this.disk(device, path)}`, block);
      this.#link(`${map}/slaves/${this.disk(device, path)}`, block);
    }
  }

  // Returns the index of the host's port, and of the storage's port.
  #way(path) {
    return [path % 2, Math.floor(path / 2)];
  }

  #devno(device, path) {
    const disk = device * this.paths + path;
    return `${8 + Math.floor(disk / 16)}:${(disk % 16) * 16}`;
  }

  #answer(question) {
    const text = question === "show daemon" ? "pid 4711 idle\n"
      : question === "show maps json" ? JSON.stringify({ major_version: 0, minor_version: 1, maps: this.#maps() })
      : "\n";
    const reply = Buffer.from(`${text}\0`);
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(reply.length));
    return Buffer.concat([length, reply]);
  }

  #maps() {
    const path = (device, path) => {
      const state = this.state(device, path);
      return {
        dev: this.disk(device, path), dev_t: this.#devno(device, path), dm_st: state, dev_st: "running",
        chk_st: state === "active" ? "ready" : "faulty", checker: "tur", pri: path < this.paths / 2 ? 50 : 10,
        marginal_st: "normal",
      };
    };
    // The storage has two controllers, and a path group for each.
    const group = (device, index) => ({
      pri: index ? 10 : 50, dm_st: index ? "enabled" : "active", marginal_st: "normal", group: index + 1,
      paths: [...Array(this.paths).keys()].slice(index * this.paths / 2, (index + 1) * this.paths / 2)
        .map(number => path(device, number)),
    });
    return [...Array(this.devices).keys()].map(device => ({
      name: this.names(device), uuid: this.wwid(device), sysfs: `dm-${device}`, queueing: "on", paths: this.paths,
      write_prot: "rw", dm_st: "active", features: "1 queue_if_no_path", path_faults: 0, vend: "NETAPP",
      prod: "LUN C-Mode", rev: "9131", switch_grp: 0, map_loads: 1, total_q_time: 0, q_timeouts: 0,
      path_groups: [group(device, 0), group(device, 1)],
    }));
  }
}

// Counts like the kernel's disk names and multipathd's aliases: a, b, …, z, aa, ab, …
function letters(index) {
  const last = String.fromCharCode(97 + (index % 26));
  return index < 26 ? last : letters(Math.floor(index / 26) - 1) + last;
}
