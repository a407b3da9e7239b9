// Preloaded into NNI's manager (NODE_OPTIONS), whose file cannot be configured in these two points.

// 1. It would listen on every address: its servers listen on COMPARE_LISTEN.
const net = require("net");
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...words) {
  const host = process.env.COMPARE_LISTEN || "127.0.0.1";
  if (typeof words[0] === "number" && typeof words[1] !== "string") words.splice(1, 0, host);
  else if (words[0] && typeof words[0] === "object" && "port" in words[0] && !words[0].host) words[0].host = host;
  return listen.apply(this, words);
};

// 2. It gives its tuner ten seconds to start, and the tuner imports torch, which takes longer on a busy machine.
const wait = global.setTimeout;
const patience = 1000 * Number(process.env.COMPARE_PATIENCE || 10);
global.setTimeout = function (call, milliseconds, ...words) {
  const tuner = milliseconds === 10000 && /tuner_command_channel/.test(new Error().stack);
  return wait(call, tuner ? Math.max(patience, milliseconds) : milliseconds, ...words);
};
Object.defineProperties(global.setTimeout, Object.getOwnPropertyDescriptors(wait)); // its promisified form
