// GrowthBook's remote evaluation, as its proxy serves it: `node growthbook.js PORT FLAGS PERCENT`, run where
// node_modules has @growthbook/proxy-eval.

const http = require("node:http");
const { createRequire } = require("node:module");

const { evaluateFeatures } = createRequire(process.cwd() + "/")("@growthbook/proxy-eval");
const [port, flags, percent] = process.argv.slice(2).map(Number);
const features = {};
for (let number = 1000; number < 1000 + flags; number++) {
  features[`campaign-${number}`] = {
    defaultValue: false,
    rules: [{ force: true, coverage: percent / 100, hashAttribute: "id" }],
  };
}

http
  .createServer((request, response) => {
    let body = "";
    request.on("data", (piece) => (body += piece));
    request.on("end", async () => {
      const { attributes } = request.method === "POST" ? JSON.parse(body) : { attributes: { id: "1" } };
      const answer = JSON.stringify(await evaluateFeatures({ payload: { features }, attributes }));
      response.writeHead(200, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(answer) });
      response.end(answer);
    });
  })
  .listen(port, "127.0.0.1");
