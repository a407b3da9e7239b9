// Preloaded into NNI's manager (NODE_OPTIONS); NNI has no settings for these three behaviors.

// 1. The manager's servers would listen on every address; they listen on COMPARE_LISTEN.
const net = require("net");
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  const host = process.env.COMPARE_LISTEN || "127.0.0.1";
  if (typeof args[0] === "number" && typeof args[1] !== "string") args.splice(1, 0, host);
  else if (args[0] && typeof args[0] === "object" && "port" in args[0] && !args[0].host) args[0].host = host;
  return listen.apply(this, args);
};

// 2. The tuner has ten seconds to start, but it imports torch, which takes longer on a busy machine.
const wait = global.setTimeout;
const startup = 1000 * Number(process.env.COMPARE_STARTUP_SECONDS || 10);
global.setTimeout = function (call, milliseconds, ...args) {
  const tuner = milliseconds === 10000 && /tuner_command_channel/.test(new Error().stack);
  return wait(call, tuner ? Math.max(startup, milliseconds) : milliseconds, ...args);
};
Object.defineProperties(global.setTimeout, Object.getOwnPropertyDescriptors(wait)); // its promisified form

// 3. The manager would outlive a sweep that is killed: it stops, and later kills what is left, when its parent changes.
const parent = process.ppid;
const grace = 1000 * Number(process.env.COMPARE_STOP_SECONDS || 20);
function descendants() {
  const text = require("child_process").spawnSync("ps", ["-A", "-o", "pid=,ppid="], { encoding: "utf8" }).stdout || "";
  const pairs = text.trim().split("\n").map((line) => line.trim().split(/\s+/).map(Number));
  const found = [process.pid];
  for (const one of found) found.push(...pairs.filter(([, from]) => from === one).map(([pid]) => pid));
  return found.slice(1);
}
if (require("worker_threads").isMainThread) {
  const watch = setInterval(() => {
    if (process.ppid === parent) return;
    clearInterval(watch);
    const started = descendants();
    wait(() => {
      for (const pid of started) try { process.kill(pid, "SIGKILL"); } catch { /* it has ended */ }
      process.kill(process.pid, "SIGKILL");
    }, grace);
    process.kill(process.pid, "SIGTERM");
  }, 1000);
  watch.unref();
}
