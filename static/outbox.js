// What is written. The draft in the box is kept as it is typed. What is sent is shown at once, goes to the server one message after the other in
// the order of writing, and is kept until it stands in the log or its author deletes it. Everything kept is one person's, in this tab.
"use strict";

const AGAIN_MS = 1_000;           // a request that was cut off is tried once more after this; the server knows each message by its id
const SLOW_MS = 2_000;            // then a pending message says that it is being sent
const BUSY_MS = 3_000;            // a server that says "too fast" is asked again after this, if it names no time
const KEEPALIVE_BYTES_MAX = 30_000;      // browsers let requests of 64 kB outlive their page
const WITHDRAW_MS_MAX = 30_000;   // between two attempts to take back what may have arrived
const RELOADED_MS = 60_000;       // a page that was reloaded for its rights is not reloaded again so soon

const UNREACHED = "The server cannot be reached.";

// ── What is kept ─────────────────────────────────────────────────────────────────────────────────────────────

// A session that ends leaves a person's texts in the whole browser, because they may sign in in another tab; the next tab of theirs takes them.
const kept = {
  person: "",
  isLeft: false,
  open(person) {
    this.person = person;
    if (!person) return;
    if ((sessionStorage.person ?? person) !== person) sessionStorage.clear();
    sessionStorage.person = person;
    for (const key of Object.keys(localStorage)) if (key.startsWith("kept ") && key !== `kept ${person}`) localStorage.removeItem(key);
    this.takeOver(JSON.parse(localStorage.getItem(`kept ${person}`) ?? "{}"));
    localStorage.removeItem(`kept ${person}`);
  },
  takeOver({drafts = {}, posts = []}) {
    for (const [key, text] of Object.entries(drafts)) {
      const mine = sessionStorage.getItem(key);
      sessionStorage.setItem(key, mine && mine !== text ? `${mine}\n\n${text}` : text);
    }
    const ids = new Set(this.posts().map(post => post.id));
    if (posts.length) this.keepPosts([...this.posts(), ...posts.filter(post => !ids.has(post.id))]);
  },
  // Called when the session is over, and then at each change. If another tab takes what was left, it is gone here.
  leave(taken) {
    if (taken && !this.isLeft) addEventListener("storage", event => {
      if (event.key !== `kept ${this.person}` || event.newValue !== null) return;
      sessionStorage.clear();
      taken();
    });
    this.isLeft = true;
    const drafts = Object.fromEntries(Object.entries(sessionStorage).filter(([key]) => key.startsWith("draft ")));
    if (this.person) localStorage.setItem(`kept ${this.person}`, JSON.stringify({drafts, posts: this.posts()}));
  },
  clear() {
    sessionStorage.clear();
    localStorage.removeItem(`kept ${this.person}`);
  },
  posts: () => JSON.parse(sessionStorage.getItem("outbox") ?? "[]"),
  keepPosts(posts) { this.keep("outbox", posts.length ? JSON.stringify(posts) : ""); },
  // All that was written and not sent, as [path, text]; what is on its way to a channel comes first.
  writings() {
    const drafts = Object.entries(sessionStorage).filter(([key]) => key.startsWith("draft ")).map(([key, text]) => [key.slice(6), text]);
    const written = new Map();
    for (const [path, text] of [...this.posts().filter(post => post.state === "failed").map(post => [post.path, post.text]), ...drafts])
      written.set(path, [...written.get(path) ?? [], text]);
    return [...written].map(([path, texts]) => [path, texts.join("\n\n")]);
  },
  draft: path => sessionStorage.getItem(`draft ${path}`) ?? "",
  keepDraft(path, text) { this.keep(`draft ${path}`, text); },
  keep(key, text) {
    try {
      if (text) sessionStorage.setItem(key, text); else sessionStorage.removeItem(key);
      if (this.isLeft) this.leave();
    } catch { /* some megabytes are kept already: this page still has it */ }
  },
};

// ── Sending ──────────────────────────────────────────────────────────────────────────────────────────────────

// One request for a message: {kind, why, tx}. "stored" it is; "refused" it never will be as it stands; "unknown" nobody answered; "busy" is for later;
// "closed" the channel is not open to its author; "signed out" nobody is known here; "failed" the server says that it cannot.
async function request(post, path, token) {
  const body = new URLSearchParams(path === post.path ? {post: post.id, text: post.text} : {post: post.id});
  let answer, why;
  try {
    answer = await fetch(path, {method: "POST", body, headers: {"HX-Request": "true", "X-CSRF-Token": token}, signal: AbortSignal.timeout(ANSWER_MS),
                                keepalive: String(body).length < KEEPALIVE_BYTES_MAX});
    why = await answer.text();
  } catch (error) {
    return {kind: "unknown", isLate: error.name === "TimeoutError", why: error.name === "TimeoutError" ? "The server has not answered within 15 seconds." : UNREACHED};
  }
  const elsewhere = answer.headers.get("HX-Redirect");
  if (elsewhere) return elsewhere.startsWith("/signin") ? {kind: "signed out"} : {kind: "closed", why: "This channel is not open to you any more."};
  if (answer.status === 204) return {kind: "stored", tx: Number(answer.headers.get("X-Tx-Id"))};
  if (answer.status === 403) return {kind: "signed out", why};
  if (!why || why.length > 400 || why.includes("<")) why = `The server cannot take it now (${answer.status}).`;
  if (answer.status === 429) return {kind: "busy", why: why.replace("Send it again in a moment.", "The rest follows by itself."), ms: 1_000 * answer.headers.get("Retry-After") || BUSY_MS};
  if (answer.status === 502 || answer.status === 504) return {kind: "unknown", why};      // a proxy's: whether the server has it, it does not know
  return {kind: answer.status >= 500 ? "failed" : "refused", why};
}

// The messages on their way. A post is {id, path, text, at, state, why, unanswered, tx}; its state is "waiting", "stored" or "failed". After a failure
// those behind it in its channel fail too: they would arrive before it. `shown()` is called after each change; `stored(post)` and `signedOut()` too.
function openOutbox(token, {shown, stored, signedOut}) {
  let posts = kept.posts().filter(post => post.state !== "stored" || post.path === location.pathname), isWorking = false;
  const changed = () => { kept.keepPosts(posts); shown(); };
  const pause = ms => new Promise(resolve => setTimeout(resolve, ms));
  const sendable = () => posts.find(post => post.state === "waiting");

  async function work() {
    if (isWorking) return;
    isWorking = true;
    while (sendable()) if (!await settle(sendable())) break;
    isWorking = false;
  }
  async function settle(post) {
    const answer = await send(post);
    if (post.state === "stored" || !posts.includes(post)) return true;       // the socket was faster than the answer
    switch (answer.kind) {
      case "stored":
        Object.assign(post, {state: "stored", tx: answer.tx, why: ""});
        if (post.path !== location.pathname) posts = posts.filter(other => other !== post);      // shown when that channel is
        changed();
        stored(post);
        return true;
      case "busy": post.why = answer.why; changed(); await pause(answer.ms); return true;
      case "signed out": if (signedOut()) return false;                                  // else it was tried: the sentence is told
    }
    fail(post, answer);
    return true;
  }
  async function send(post) {
    let answer;
    for (let tries = 0; tries < 2; tries++) {
      post.unanswered += 1;
      changed();
      answer = await request(post, post.path, token);
      if (answer.kind !== "unknown") { post.unanswered -= 1; return answer; }
      if (answer.isLate || post.state !== "waiting") return answer;
      await pause(AGAIN_MS);
    }
    return answer;
  }
  function fail(post, answer) {
    const behind = answer.kind === "refused" ? [post] : posts.slice(posts.indexOf(post)).filter(other => other.path === post.path && other.state === "waiting");
    for (const one of behind) Object.assign(one, {state: "failed", why: answer.why ?? "", isRefused: answer.kind === "refused"});
    changed();
  }
  async function withdraw(post) {
    for (let wait = AGAIN_MS; posts.includes(post); wait = Math.min(2 * wait, WITHDRAW_MS_MAX)) {
      const {kind} = await request(post, `${post.path}/withdraw`, token);
      if (kind === "signed out") return;                             // goes on when its author is back
      if (kind !== "unknown" && kind !== "busy") { posts = posts.filter(other => other !== post); return changed(); }
      await pause(wait);
    }
  }
  for (const post of posts.filter(one => one.state === "deleted")) withdraw(post);
  return {
    add(path, text) {
      for (const post of posts) if (post.path === path && post.state === "failed" && !post.isRefused) Object.assign(post, {state: "waiting", why: ""});      // they come first
      posts.push({id: newId(), path, text, at: new Date().toISOString(), state: "waiting", why: "", unanswered: 0, tx: 0});
      changed();
      work();
    },
    retry(post) {
      for (const one of posts) if (one === post || one.path === post.path && one.state === "failed" && !one.isRefused) Object.assign(one, {state: "waiting", why: ""});
      changed();
      work();
    },
    // What never left this page is forgotten; what may have arrived is taken back, if it takes days.
    remove(post) {
      if (post.unanswered) { post.state = "deleted"; withdraw(post); }
      else posts = posts.filter(other => other !== post);
      changed();
    },
    // Those that stand in the channel are done, and so are those that it has heard of and does not show: they were deleted.
    forget(isDone) {
      const left = posts.filter(post => post.state === "deleted" || !isDone(post));
      if (left.length === posts.length) return;
      for (const post of posts) if (!left.includes(post)) post.state = "stored";
      posts = left;
      kept.keepPosts(posts);
    },
    reached() {
      for (const post of posts) if (post.why === UNREACHED) post.why = "";
      changed();
    },
    drop(path) { posts = posts.filter(post => post.path !== path); changed(); },
    of: path => posts.filter(post => post.path === path && post.state !== "deleted"),
    isDeleted: id => posts.some(post => post.id === id && post.state === "deleted"),
    work,
  };
}

function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));      // over plain http there is no randomUUID
  bytes[6] = bytes[6] & 15 | 64; bytes[8] = bytes[8] & 63 | 128;
  return [...bytes].map((byte, n) => ([4, 6, 8, 10].includes(n) ? "-" : "") + byte.toString(16).padStart(2, "0")).join("");
}

// ── Showing ──────────────────────────────────────────────────────────────────────────────────────────────────

const isPending = message => message.classList.contains("pending");

// The messages on their way stand at the end of the list, in the order of writing, each under the id that it will have.
function showOutbox(list, outbox) {
  const path = location.pathname, mem = list.dataset.mem;

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }
  function made(post) {
    const face = element("i", {class: `face hue-${mem[0]}`, "aria-hidden": "true"}, list.dataset.initials);
    const text = element("p", {dir: "auto", "hx-ignore": "", "data-disable-scripting": ""}, post.text);
    return element("article", {class: "message mine pending", id: `message-${post.id}`, "data-mem": mem},
                   element("header", {}, face, element("b", {}, list.dataset.name), " ", element("time", {datetime: post.at})), text, element("div", {class: "fate"}));
  }
  function button(name, act) {
    const made = element("button", {type: "button", class: "link"}, name);
    made.addEventListener("click", () => { act(); $("text")?.focus(); });
    return made;
  }
  // What becomes of a post, below its text. Written anew only when it changes: it may have the focus, and is read aloud.
  function tell(message, post) {
    const fate = message.querySelector(".fate"), isSlow = Date.now() - Date.parse(post.at) > SLOW_MS;
    const word = post.state === "failed" ? `Not sent. ${post.why}` : post.state === "stored" ? "" : post.why || (isSlow ? "Sending …" : "");
    const told = `${post.state} ${word}`;
    message.classList.toggle("failed", post.state === "failed");
    message.classList.toggle("stored", post.state === "stored");
    if (message.dataset.fate === told) return;
    message.dataset.fate = told;
    fate.setAttribute("role", post.state === "failed" ? "alert" : "status");
    fate.replaceChildren(element("span", {}, word.trim()));
    if (post.state === "failed") fate.append(button("Retry", () => outbox.retry(post)), button("Delete", () => outbox.remove(post)));
  }
  function show() {
    const cursor = Number($("cursor").value);
    const isThere = post => [...list.querySelectorAll(`#message-${CSS.escape(post.id)}`)].some(message => !isPending(message));
    outbox.forget(post => post.path === path && (isThere(post) || post.state === "stored" && post.tx <= cursor));
    const wanted = outbox.of(path), pending = new Map([...list.querySelectorAll(".pending")].map(message => [message.id, message]));
    for (const [id, message] of pending) if (!wanted.some(post => `message-${post.id}` === id)) message.remove();
    const messages = wanted.map(post => pending.get(`message-${post.id}`) ?? made(post));
    wanted.forEach((post, n) => tell(messages[n], post));
    place(messages);
    showFailure(wanted);
  }
  // Real messages go before the first pending one; a pending one stays where it is, because it may have the focus.
  function place(messages) {
    messages.forEach((message, n) => {
      const before = messages[n - 1];
      if (!message.isConnected) list.append(message);
      else if (before && message.previousElementSibling !== before) before.after(message);
    });
    const last = messages.at(-1);
    if (last) while (last.nextElementSibling) messages[0].before(last.nextElementSibling);
  }
  function showFailure(posts) {
    const failed = posts.filter(post => post.state === "failed"), waits = posts.find(post => post.state === "waiting" && post.why);
    const failure = $("failure"), why = failed[0]?.why ?? waits?.why ?? "";
    if (failure.dataset.of === "box") return;                      // that one says why the text in the box cannot be sent
    failure.textContent = why && (failed.length > 1 ? `${failed.length} messages were not sent. ${why}` : failed.length ? `Not sent. ${why}` : why);
    failure.hidden = !why;
  }
  setInterval(() => { if (outbox.of(path).some(post => post.state === "waiting")) show(); }, SLOW_MS);
  return show;
}

// ── The box ──────────────────────────────────────────────────────────────────────────────────────────────────

// The draft is kept as it is typed; Enter sends. A text that is too long stays whole in the box, and says so.
function openBox(form, outbox) {
  const box = $("text"), failure = $("failure"), path = location.pathname, charsMax = box.maxLength;
  const isTouch = matchMedia("(pointer: coarse)").matches;
  const fit = () => { box.style.removeProperty("height"); box.style.height = `${Math.min(box.scrollHeight + 2, innerHeight / 3)}px`; };
  const charsOf = text => text.length <= charsMax ? text.length : [...text].length;

  function tooLong() {
    const chars = charsOf(box.value.trim()), isTooLong = chars > charsMax;
    const count = number => number.toLocaleString("en");
    if (isTooLong) {
      failure.textContent = `A message has at most ${count(charsMax)} characters; this one has ${count(chars)}. Nothing was cut: shorten it by ${count(chars - charsMax)}, or send it in parts.`;
      failure.dataset.of = "box";
      failure.hidden = false;
    } else if (failure.dataset.of === "box") {
      delete failure.dataset.of;
      failure.hidden = true;
    }
    return isTooLong;
  }
  function changed() { fit(); kept.keepDraft(path, box.value); tooLong(); }

  box.addEventListener("input", changed);
  addEventListener("resize", fit);
  box.addEventListener("keydown", event => {
    if (event.key !== "Enter" || event.isComposing || event.keyCode === 229) return;
    if (event.ctrlKey || event.metaKey || (!event.shiftKey && !isTouch)) { event.preventDefault(); form.requestSubmit(); }
  });
  form.querySelector("button").addEventListener("mousedown", event => event.preventDefault());      // the focus, and a phone's keyboard, stay in the box
  form.addEventListener("submit", event => {
    event.preventDefault();
    const text = box.value.trim();
    box.focus();
    if (tooLong()) return;
    box.value = "";
    changed();
    if (text) outbox.add(path, text);
  });
  box.removeAttribute("maxlength");                                // browsers cut there in silence
  if (!box.value) box.value = kept.draft(path);
  changed();
  if (!isTouch) box.focus();
}
