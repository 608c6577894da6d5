// DataScript in node, its own JavaScript interface: in memory, without history. It answers the commands of ../peer.py and is timed in its
// own process, so that no bridge is counted; the data comes from `python world.py SIZE`.

const {execFileSync} = require("child_process");
const path = require("path");
const readline = require("readline");
const d = require("datascript");

const size = process.argv[3];
const ref = {":db/valueType": ":db.type/ref"}, unique = {":db/unique": ":db.unique/identity"}, index = {":db/index": true};
const schema = {
  "id": unique, "user/email": unique, "mem/user": ref, "mem/comm": ref, "msg/mem": ref, "msg/channel": ref, "msg/created-at": index,
  "name": index, "salary": index, "node/next": ref, "node/parent": ref,
};
const references = new Set(Object.keys(schema).filter(a => schema[a] === ref));
const python = path.join(__dirname, "..", "world.py");
const world = JSON.parse(execFileSync(process.env.PYTHON || "python3", [python, size], {maxBuffer: 2 ** 31}));
const conn = d.create_conn(schema);
const people = size === "people";

const numbers = new Map(world.documents.map((document, n) => [document["xt/id"], people ? document["xt/id"] : n + 1]));
const entity = (document) => {                     // a document as DataScript has it: numbered, references by number
  const made = {":db/id": numbers.get(document["xt/id"]) ?? -1};
  if (!people) made["id"] = document["xt/id"];
  for (const [a, v] of Object.entries(document))
    if (a !== "xt/id" && !Array.isArray(v)) made[a] = references.has(a) ? numbers.get(v) : v;
  return made;
};

const MESSAGE = `[:find ?id ?mem ?c ?text ?at :in $ ?id :where [?m "id" ?id] [?m "msg/channel" ?ch] [?ch "id" ?c] [?m "msg/mem" ?e] [?e "id" ?mem]
                  [?m "msg/text" ?text] [?m "msg/created-at" ?at]]`;
const CHANNEL = `[:find ?id ?mem ?text ?at :in $ ?c :where [?ch "id" ?c] [?m "msg/channel" ?ch] [?m "id" ?id] [?m "msg/mem" ?e] [?e "id" ?mem]
                  [?m "msg/text" ?text] [?m "msg/created-at" ?at]]`;
const EMAIL = `[:find ?id ?at :in $ ?email :where [?u "user/email" ?email] [?u "id" ?id] [?u "user/joined-at" ?at]]`;
const ID = `[:find ?id :in $ ?email :where [?u "user/email" ?email] [?u "id" ?id]]`;
const JOIN = `[:find ?text ?email :in $ ?c :where [?ch "id" ?c] [?m "msg/channel" ?ch] [?m "msg/text" ?text] [?m "msg/mem" ?e] [?e "mem/user" ?u]
               [?u "user/email" ?email]]`;
const NESTED = `["id" "user/email" "user/joined-at" {"mem/_user" ["id" {"mem/comm" ["*"]}]}]`;     // ["id" "comm/title"] finds nothing in 1.8.1
const RULES = `[[(reach ?a ?b) [?a "node/next" ?b]] [(reach ?a ?b) [?a "node/next" ?m] (reach ?m ?b)]
                [(above ?n ?a) [?n "node/parent" ?a]] [(above ?n ?a) [?n "node/parent" ?m] (above ?m ?a)]]`;
const q = (query, ...args) => d.q(query, d.db(conn), ...args);
const bare = (rows) => rows.map(row => row[0]);
const message = (channel) => ([id, mem, text, at]) => ({"xt/id": id, "msg/mem": mem, "msg/channel": channel, "msg/text": text, "msg/created-at": at});

const questions = people ? {
  q1: () => bare(q(`[:find ?e :where [?e "name" "Ivan"]]`)),
  q2: () => q(`[:find ?e ?a :where [?e "name" "Ivan"] [?e "age" ?a]]`),
  q3: () => q(`[:find ?e ?a :where [?e "name" "Ivan"] [?e "age" ?a] [?e "sex" "male"]]`),
  q4: () => q(`[:find ?e ?l ?a :where [?e "name" "Ivan"] [?e "last-name" ?l] [?e "age" ?a] [?e "sex" "male"]]`),
  qpred1: () => q(`[:find ?e ?s :where [?e "salary" ?s] [(> ?s 50000)]]`),
  qpred2: (least) => q(`[:find ?e ?s :in $ ?least :where [?e "salary" ?s] [(> ?s ?least)]]`, least),
  ancestors: () => q(`[:find ?n ?a :in $ % :where (above ?n ?a)]`, RULES),
} : {
  message: (id) => q(MESSAGE, id).map(([id, mem, c, text, at]) => message(c)([id, mem, text, at]))[0],
  user_by_email: (email) => q(EMAIL, email).map(([id, at]) => ({"xt/id": id, "user/email": email, "user/joined-at": at})),
  id_by_email: (email) => bare(q(ID, email)),
  channel: (channel) => q(CHANNEL, channel).map(message(channel)),
  newest: (channel) => q(CHANNEL, channel).sort((a, b) => b[3] - a[3]).slice(0, 50).map(message(channel)),
  join: (channel) => q(JOIN, channel),
  nested: (id) => {
    const found = d.pull(d.db(conn), NESTED, ["id", id]);
    const comm = (one) => ({"xt/id": one["id"], "comm/title": one["comm/title"]});
    return {"xt/id": found["id"], "user/email": found["user/email"], "user/joined-at": found["user/joined-at"],
            "mems": found["mem/_user"].map(mem => ({"xt/id": mem["id"], "mem/user": id, "mem/roles": [], "mem/comm": comm(mem["mem/comm"])}))};
  },
};

const median = (times) => times.sort((a, b) => a - b)[times.length >> 1];
const timed = (work, many) => median(many.map(one => {
  const begin = process.hrtime.bigint();
  work(one);
  return Number(process.hrtime.bigint() - begin) / 1000;
}));
const put = (document) => d.transact(conn, [document]);
let fresh = 0;

const commands = {
  load() {
    const begin = process.hrtime.bigint();
    for (let start = 0; start < world.documents.length; start += 10_000)
      d.transact(conn, world.documents.slice(start, start + 10_000).map(entity));
    return world.documents.length / (Number(process.hrtime.bigint() - begin) / 1e9);
  },
  has: ({question}) => question in questions || (question === "put" && !people),
  answer: ({question}) => questions[question](world.arguments[question][0]),
  time: ({question, count}) => timed(questions[question], Array.from({length: count}, (_, n) => world.arguments[question][n % world.arguments[question].length])),
  put: ({count}) => timed(put, Array.from({length: count}, () =>
    entity({...world.documents[world.documents.length - 1 - fresh % 1000], "xt/id": `fresh${fresh++}`}))),
  put_from_threads: () => { throw "JavaScript has one thread"; },
  close: () => null,
};

readline.createInterface({input: process.stdin}).on("line", (line) => {
  const {do: name, ...options} = JSON.parse(line);
  let answer;
  try {
    answer = {is: commands[name](options) ?? null};
  } catch (error) {
    answer = {error: String(error).slice(0, 300)};
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}).on("close", () => process.exit());
