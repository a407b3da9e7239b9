// Preloaded into NNI's manager, which would listen on every address: its servers listen on COMPARE_LISTEN.
const net = require("net");
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...words) {
  const host = process.env.COMPARE_LISTEN || "127.0.0.1";
  if (typeof words[0] === "number" && typeof words[1] !== "string") words.splice(1, 0, host);
  else if (words[0] && typeof words[0] === "object" && "port" in words[0] && !words[0].host) words[0].host = host;
  return listen.apply(this, words);
};
