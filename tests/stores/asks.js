// Node's clients of data stores: `asks.js KIND TIMES PORT|SERVERS`. Asks some, says "ready", waits for a line, asks so many times, and leaves.
// kafkajs says what it asked, by the names of the requests, as JSON in its last line.
const [kind, timesText, where] = process.argv.slice(2);
const times = Number(timesText);

function pause() {
  process.stdout.write("ready\n");
  return new Promise((resolve) => process.stdin.once("data", resolve));
}

async function mysql(prepared) {
  const { createConnection } = require("mysql2/promise");
  const one = await createConnection({ host: "127.0.0.1", port: Number(where), user: "root", database: "shop" });
  for (let n = 0; n < times + 20; n++) {
    if (n === 20) await pause();
    if (prepared) await one.execute("select ? + 1", [n]);
    else await one.query(`select ${n}`);
  }
  await one.end();
}

async function kafka() {
  const { Kafka, logLevel, Partitioners } = require("kafkajs");
  const client = new Kafka({ brokers: where.split(","), logLevel: logLevel.NOTHING, retry: { retries: 3 } });
  const producer = client.producer({ createPartitioner: Partitioners.LegacyPartitioner });
  const asked = {};
  producer.on(producer.events.REQUEST, ({ payload }) => (asked[payload.apiName] = (asked[payload.apiName] || 0) + 1));
  await producer.connect();
  for (let n = 0; n < times; n++) {
    if (n === 20) await pause();
    await producer.send({ topic: "topic-produce", messages: [{ key: String(n), value: "x".repeat(100) }] });
  }
  await producer.disconnect();
  process.stdout.write(JSON.stringify(asked) + "\n");
}

const kinds = { mysql2: () => mysql(false), "mysql2-prepared": () => mysql(true), kafkajs: kafka };
kinds[kind]().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
