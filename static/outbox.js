// Texts on their way. A draft is kept as it is typed. A message that is sent goes to the server after those written
// before it, and is kept until it stands in the log or its author deletes it. All this is one person's.
"use strict";

const AGAIN_MS = 1_000;           // a request that was cut off is tried once more; the server knows a message by its id
const BUSY_MS = 3_000;            // a server that says "too fast" is asked again after this, if it names no time
const KEEPALIVE_BYTES_MAX = 30_000;      // browsers let requests of 64 kB outlive their page
const WITHDRAW_MS_MAX = 30_000;   // between two attempts to take back what may have arrived
const SENTENCE_CHARS_MAX = 400;   // of an answer that is shown; a proxy's page is longer

const UNREACHED = "The server cannot be reached.", LATE = "The server has not answered within 15 seconds.";
const CLOSED = "This channel is not open to you any more.";

// ── What is kept ─────────────────────────────────────────────────────────────────────────────────────────────

// Messages on their way are kept in the tab. When a session ends they are left in the whole browser too, because their
// author may sign in in another tab, which then takes them over. Drafts are kept in the whole browser, one for each
// person and channel, so that they outlive the tab; all tabs show the same. The next person's first page drops it all.
class Kept {
  #person = "";
  #isLeft = false;
  #isCleared = false;
  #watched = null;

  open(person) {
    this.#person = person;
    if (!person) return;
    if ((sessionStorage.person ?? person) !== person) sessionStorage.clear();
    sessionStorage.person = person;
    this.#remove(localStorage, key => /^(kept|draft|drafted) /.test(key) && key.split(" ")[1] !== person);
    this.#takeOver(JSON.parse(localStorage.getItem(`kept ${person}`) ?? "[]"));
    localStorage.removeItem(`kept ${person}`);
  }
  #takeOver(posts) {
    const known = new Set(this.posts().map(post => post.id));
    this.keepPosts([...this.posts(), ...posts.filter(post => !known.has(post.id))]);
  }
  // True once the session is over: what this page asks then comes from nobody, or from the next person.
  get isOver() { return this.#isLeft || this.#isCleared; }
  // Called when the session is over; from then on each change is left, too. `taken()` is called when a tab has it all.
  leave(taken) {
    if (!this.#isLeft) addEventListener("storage", event => {
      if (event.key !== `kept ${this.#person}` || event.newValue !== null) return;
      sessionStorage.clear();
      taken();
    });
    this.#isLeft = true;
    this.#leaveAll();
  }
  #leaveAll() {
    if (this.#person && !this.#isCleared) localStorage.setItem(`kept ${this.#person}`, JSON.stringify(this.posts()));
  }
  // After signing out nothing is kept, whatever happens until the page has gone.
  clear() {
    this.#isCleared = true;
    sessionStorage.clear();
    this.#remove(localStorage, key => /^(kept|draft|drafted) /.test(key) && key.split(" ")[1] === this.#person);
  }
  #remove(storage, isGone) { Object.keys(storage).filter(isGone).forEach(key => storage.removeItem(key)); }

  posts() { return JSON.parse(sessionStorage.getItem("outbox") ?? "[]"); }
  keepPosts(posts) {
    this.#keep(sessionStorage, "outbox", posts.length ? JSON.stringify(posts) : "");
    if (this.#isLeft) this.#leaveAll();
  }

  draftChanged = () => {};          // called after a draft has changed here

  draft(path) { return localStorage.getItem(this.#keyOf(path)) ?? ""; }
  drafts() {
    const prefix = this.#keyOf("");
    const keys = Object.keys(localStorage).filter(key => key.startsWith(prefix));
    return keys.map(key => [key.slice(prefix.length), localStorage.getItem(key)]);
  }
  keepDraft(path, text) {
    if (!this.#person || text === this.draft(path)) return;
    this.#keep(localStorage, this.#keyOf(path), text);
    this.know(path, {changedAt: Date.now()});
    this.draftChanged();
  }
  // The draft that the server has, as {at, text}, and when it was changed here last.
  known(path) { return {at: "", text: "", changedAt: 0, ...JSON.parse(localStorage.getItem(this.#knownKeyOf(path)))}; }
  know(path, values) {
    this.#keep(localStorage, this.#knownKeyOf(path), JSON.stringify({...this.known(path), ...values}));
  }
  // A draft that comes from another device.
  bringDraft(path, text) {
    this.#keep(localStorage, this.#keyOf(path), text);
    if (this.#watched?.path === path) this.#watched.changed(text);
  }
  // Calls `changed(text)` when another tab or device has changed the draft. One that was removed with all else stays.
  watchDraft(path, changed) {
    this.#watched = {path, changed};
    addEventListener("storage", ({key, newValue}) => {
      if (key === this.#keyOf(path) && newValue !== null) changed(newValue);
    });
  }
  #knownKeyOf(path) { return `drafted ${this.#person} ${path}`; }
  #keyOf(path) { return `draft ${this.#person} ${path}`; }

  #keep(storage, key, text) {
    if (this.#isCleared) return;
    try {
      storage.setItem(key, text);
      if (!text) storage.removeItem(key);                  // other tabs hear of both: it is empty, and it is gone
    } catch { /* some megabytes are kept already: the page itself still has it */ }
  }
}
const kept = new Kept();

// The parts of a message beside its text. Other files add {name, isWaiting(), take(), fields(what), shown(what, path)}:
// `take` gives what is carried, or null; `fields` makes it fields of the form, and `shown` an element of the message.
const riders = [];

// ── Sending ──────────────────────────────────────────────────────────────────────────────────────────────────

// One request of the chat, as {kind, why}:
// - "stored": done; `tx` is how far a page has to hear to see it
// - "unknown": nobody answered, so that it may have arrived, or may still; `isLate` if the time was up
// - "busy": the server takes it a little later, after `ms`
// - "failed": the server could not; "refused": it never will, as it stands
// - "closed": the channel is not open to its author; "signed out": nobody is known here, or the page is too old
async function request(path, fields, token) {
  const body = new URLSearchParams(fields), headers = {"HX-Request": "true", "X-CSRF-Token": token};
  const keepalive = String(body).length < KEEPALIVE_BYTES_MAX, signal = AbortSignal.timeout(ANSWER_MS);
  try {
    const answer = await fetch(path, {method: "POST", body, headers, keepalive, signal});
    return outcome(answer, await answer.text());
  } catch (error) {
    const isLate = error.name === "TimeoutError";
    return {kind: "unknown", isLate, why: isLate ? LATE : UNREACHED};
  }
}

// True if an answer is a sentence of ours for people, and no page of a proxy.
const isSentence = text => typeof text === "string" && text && text.length <= SENTENCE_CHARS_MAX && !text.includes("<");

function outcome({status, headers}, text) {
  const elsewhere = headers.get("HX-Redirect");
  if (elsewhere) return elsewhere.startsWith("/signin") ? {kind: "signed out"} : {kind: "closed", why: CLOSED};
  if (status === 204) return {kind: "stored", tx: Number(headers.get("X-Tx-Id"))};
  const why = isSentence(text) ? text : `The server cannot take it now (${status}).`;
  if (status === 403) return {kind: "signed out", why};
  if (status === 429) {
    const ms = 1_000 * headers.get("Retry-After") || BUSY_MS;
    return {kind: "busy", why: why.replace(/Send it again (in [^.]+)\.$/, "It is sent by itself $1."), ms};
  }
  if (status === 502 || status === 504) return {kind: "unknown", why};      // a proxy's: it does not know, either
  return {kind: status >= 500 ? "failed" : "refused", why};
}

const pause = ms => new Promise(resolve => setTimeout(resolve, ms));

// The messages on their way. A post is {id, path, text, beside, at, state, why, isRefused, isHeld, unanswered, tx}. Its
// state is "waiting", "stored", "failed" or "deleted"; `unanswered` counts the requests that had no answer; it is held
// while the server says "later", and the other channels go on meanwhile. A failure fails those behind it in its
// channel, too, because they would arrive before it. `told` has three functions: `shown()` is called after each change,
// `stored(post)` when a post is stored, and `signedOut()` answers true if the page goes away.
class Outbox {
  #posts;
  #isWorking = false;
  #busyUntil = new Map();           // path → when the server takes the next message there; other channels' go before

  constructor(token, told) {
    Object.assign(this, {token, told});
    this.#posts = kept.posts().filter(post => post.state !== "stored" || this.#isHere(post));
    for (const post of this.#posts.filter(one => one.state === "deleted")) this.#withdraw(post);
  }
  of(path) { return this.#posts.filter(post => post.path === path && post.state !== "deleted"); }
  isDeleted(id) { return this.#posts.some(post => post.id === id && post.state === "deleted"); }

  add(path, text, beside = {}) {
    this.#waitAgain(path);                                 // those come first
    this.#posts.push({id: newId(), path, text, beside, at: new Date().toISOString(), state: "waiting", why: "",
                      isRefused: false, unanswered: 0, tx: 0});
    this.#changed();
    this.work();
  }
  retry(post) {
    this.#waitAgain(post.path, post);
    this.#changed();
    this.work();
  }
  // A post that never left this page is forgotten. One that may have arrived is taken back, if it takes days.
  remove(post) {
    if (post.unanswered) {
      post.state = "deleted";
      this.#withdraw(post);
    } else this.#drop(other => other === post);
    this.#changed();
  }
  dropAllOf(path) {
    this.#drop(post => post.path === path);
    this.#changed();
  }
  // Drops what is done: it stands in the channel, or the page has heard of it and does not show it, so it was deleted.
  forget(isDone) {
    const done = this.#posts.filter(post => post.state !== "deleted" && isDone(post));
    if (!done.length) return;
    for (const post of done) post.state = "stored";
    this.#drop(post => done.includes(post));
    kept.keepPosts(this.#posts);
  }
  reached() {
    for (const post of this.#posts) if (post.why === UNREACHED) post.why = "";
    this.#changed();
    this.work();
  }
  async work() {
    if (this.#isWorking) return;
    this.#isWorking = true;
    for (let post; post = this.#next();) if (!await this.#settle(post)) break;
    this.#isWorking = false;
  }

  #next() {
    const isDue = post => post.state === "waiting" && !(this.#busyUntil.get(post.path) > performance.now());
    return this.#posts.find(isDue);
  }
  #isHere(post) { return post.path === HERE; }
  #drop(isDropped) { this.#posts = this.#posts.filter(post => !isDropped(post)); }
  #changed() {
    kept.keepPosts(this.#posts);
    this.told.shown();
  }
  #waitAgain(path, clicked) {
    const isAgain = post => post === clicked || post.path === path && post.state === "failed" && !post.isRefused;
    for (const post of this.#posts.filter(isAgain)) Object.assign(post, {state: "waiting", why: "", isRefused: false});
  }
  // Sends a post and notes what became of it. False if the page goes away meanwhile.
  async #settle(post) {
    post.isHeld = false;
    const answer = await this.#send(post);
    if (post.state === "stored" || !this.#posts.includes(post)) return true;      // the socket was faster
    if (answer.kind === "stored") this.#isStored(post, answer.tx);
    else if (answer.kind === "busy") this.#waitFor(post, answer);
    else if (answer.kind === "signed out" && this.told.signedOut()) return false;
    else this.#fail(post, answer);
    return true;
  }
  async #send(post) {
    for (let tries = 1; ; tries++) {
      post.unanswered += 1;
      this.#changed();
      const answer = await request(post.path, {post: post.id, text: post.text, ...this.#fields(post)}, this.token);
      if (answer.kind !== "unknown") post.unanswered -= 1;
      if (answer.kind !== "unknown" || answer.isLate || tries === 2 || post.state !== "waiting") return answer;
      await pause(AGAIN_MS);
    }
  }
  #fields({beside = {}}) {
    return Object.assign({}, ...riders.filter(({name}) => beside[name]).map(one => one.fields(beside[one.name])));
  }
  #isStored(post, tx) {
    Object.assign(post, {state: "stored", tx, why: "", isHeld: false});
    if (!this.#isHere(post)) this.#drop(other => other === post);      // its channel will show it
    this.#changed();
    this.told.stored(post);
  }
  #waitFor(post, {why, ms}) {
    Object.assign(post, {why, isHeld: true});
    this.#busyUntil.set(post.path, performance.now() + ms);
    setTimeout(() => { this.#busyUntil.delete(post.path); this.work(); }, ms);
    this.#changed();
  }
  #fail(post, {kind, why = ""}) {
    const isRefused = kind === "refused", behind = this.#posts.slice(this.#posts.indexOf(post));
    const failed = isRefused ? [post] : behind.filter(other => other.path === post.path && other.state === "waiting");
    for (const one of failed) Object.assign(one, {state: "failed", why, isRefused});
    this.#changed();
  }
  async #withdraw(post) {
    for (let wait = AGAIN_MS; this.#posts.includes(post); wait = Math.min(2 * wait, WITHDRAW_MS_MAX)) {
      const {kind} = await request(`${post.path}/withdraw`, {post: post.id}, this.token);
      if (kind === "signed out") return;                   // goes on when its author is back
      if (["stored", "refused", "closed"].includes(kind)) {
        this.#drop(other => other === post);
        return this.#changed();
      }
      await pause(wait);
    }
  }
}

function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));      // over plain http there is no randomUUID
  bytes[6] = bytes[6] & 15 | 64;
  bytes[8] = bytes[8] & 63 | 128;
  const hex = [...bytes].map(byte => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}
