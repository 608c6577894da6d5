// The line to the server. htmx opens the socket, and opens it again; this file notices that a socket is dead, says so,
// and asks for news by plain requests where no socket comes about.
"use strict";

const WORD_MS = 25_000;           // the server says a word every 20 s: a page without one for so long is on a dead line
const HANDSHAKE_MS = 10_000;      // for a socket to open, then the page asks: some proxies never answer
const HANDSHAKE_MS_MAX = 40_000;  // then it is given up; a server to which thousands come back may take half a minute
const ECHO_MS = 3_000;            // a stored message comes back this soon, or the line is dead
const OFFLINE_SAY_MS = 5_000;     // shorter cuts mend themselves unnoticed
const SAID_MS = 1_500;            // what was said stays this long, so that it can be read
const REFUSALS_MAX = 4;           // closings in a row without an opening, some 3 s; then the page asks
const ASK_MS = 4_000;             // between two questions; half as much more while there is no news, up to twice this
const ASK_MS_MAX = 60_000;        // twice as long after each failure, up to this
const ANSWER_MS = 15_000;         // for a request to be answered
const FINAL = 1008;               // the one code with which the server closes for good

const ENDED = "The server has closed this page's connection. Reload the page.";

const $ = id => document.getElementById(id);

// The path of the page's channel, or community; pages of older messages and of threads have longer ones.
const HERE = location.pathname.match(/^\/community\/[^/]+(?:\/channel\/[^/]+)?/)?.[0] ?? location.pathname;
const lost = () => navigator.onLine ? "Connection lost. Trying again …" : "You are offline.";

// The word in the page's head about the connection. A final word stays; `data-final` says what is over.
class State {
  #timer = null;
  #saidAt = 0;

  get element() { return $("connection"); }                // a notice of the server takes its place
  get final() { return this.element.dataset.final; }

  say(text) {
    clearTimeout(this.#timer);
    if (this.final) return;
    if (text) this.#saidAt = Date.now();
    this.element.textContent = text;
    this.element.hidden = !text;
  }
  sayUnlessMended() { if (this.element.hidden) this.#later(OFFLINE_SAY_MS, lost); }
  clear() { this.#later(Math.max(0, this.#saidAt + SAID_MS - Date.now()), () => ""); }
  sayFinally(text, what) { this.say(text); this.element.dataset.final = what; }

  #later(ms, text) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.say(text()), ms);
  }
}

// Asks for news again and again, from `begin` to `end`. `told(why)` hears why there is no socket, or null if there was
// no answer; `closed(elsewhere)` hears where a person without a right to this page is sent.
class Questions {
  #timer = null;
  #isAsking = false;
  #wait = ASK_MS;

  constructor(place, told, closed) {
    Object.assign(this, {place, told, closed, path: place.getAttribute("hx-ws:connect").split("/connect")[0]});
  }
  begin() {
    if (this.#isAsking) return;
    this.#isAsking = true;
    this.#ask();
  }
  end() {
    this.#isAsking = false;
    clearTimeout(this.#timer);
  }
  askNow() {
    if (this.#isAsking) this.#ask();
    return this.#isAsking;
  }
  async #ask() {
    clearTimeout(this.#timer);
    try {
      const {news, is_new: isNew, why, elsewhere} = await this.#news();
      if (elsewhere) return this.closed(elsewhere);
      await this.#show(news);
      this.#wait = isNew ? ASK_MS : Math.min(1.5 * this.#wait, 2 * ASK_MS);
      if (this.#isAsking) this.told(why);
    } catch {
      this.#wait = Math.min(2 * this.#wait, ASK_MS_MAX);
      if (this.#isAsking) this.told(null);
    }
    clearTimeout(this.#timer);
    const jitter = 0.8 + 0.4 * Math.random();              // a thousand pages do not ask in step
    if (this.#isAsking) this.#timer = setTimeout(() => this.#ask(), this.#wait * jitter);
  }
  async #news() {
    const query = new URLSearchParams({after: $("cursor").value, origin: location.origin});
    const options = {headers: {"HX-Request": "true"}, signal: AbortSignal.timeout(ANSWER_MS)};
    const answer = await fetch(`${this.path}/news?${query}`, options);
    if (!answer.ok) throw new Error(answer.status);
    const elsewhere = answer.headers.get("HX-Redirect");
    return elsewhere ? {elsewhere} : answer.json();
  }
  // As htmx shows what comes by a socket. If a socket has come meanwhile, it brings the same.
  async #show(news) {
    const {place} = this;
    const swap = `${place.getAttribute("hx-swap") ?? "innerHTML"} swapEmpty:false`;
    const how = {sourceElement: place, target: place, swap, transition: false};
    for (const text of this.#isAsking ? news : []) await htmx.swap({...how, text});
  }
}

// The socket that htmx keeps for `place`. `changed("reached")` is called whenever the server has answered; `changed` is
// called with "closed" or "session over" when this page may not hear the server any more.
class Line {
  #connection = null;
  #opening = {socket: null, since: 0};
  #expectBy = Infinity;
  #refusals = 0;
  #isAnswered = false;
  #state = new State();

  constructor(place, changed) {
    Object.assign(this, {place, changed});
    this.asked = new Questions(place, why => this.#answered(why), elsewhere => this.#sentElsewhere(elsewhere));
    htmx.config.ws.reconnectCodes = {includes: code => code !== FINAL};
    place.addEventListener("htmx:ws:before:connection", event => this.#connecting(event.detail.connection));
    place.addEventListener("htmx:ws:after:connection", () => this.#connected());
    place.addEventListener("htmx:ws:before:message:incoming", () => this.#expectWord());
    place.addEventListener("htmx:ws:close", ({detail}) => {
      if (detail.reason === "closed") this.#closed(detail.code);
    });
    setInterval(() => this.#look(), 1_000);
    addEventListener("offline", () => this.#state.say(lost()));      // a socket would notice in a quarter of an hour
    addEventListener("online", () => { this.#state.clear(); this.#renew(); });
  }

  // A message was stored: it must come back soon, or this page hears nothing. `isBack()` says whether it has.
  expect(isBack) {
    if (this.asked.askNow()) return;
    setTimeout(() => { if (!isBack() && "live" in this.place.dataset) this.#isDead(); }, ECHO_MS);
  }

  #look() {
    const socket = this.#connection?.socket, now = Date.now();
    if (socket?.readyState === WebSocket.OPEN && now > this.#expectBy) this.#isDead();
    if (socket?.readyState !== WebSocket.CONNECTING) return;
    if (socket !== this.#opening.socket) this.#opening = {socket, since: now};
    if (now - this.#opening.since > HANDSHAKE_MS) this.asked.begin();
    if (now - this.#opening.since > HANDSHAKE_MS_MAX) this.#isDead();
  }
  #expectWord() { this.#expectBy = Date.now() + WORD_MS; }

  #connecting(connection) {
    this.#connection = connection;
    connection.config.reconnectMaxDelay = this.#isAnswered ? ASK_MS_MAX : htmx.config.ws.reconnectMaxDelay;
    this.#expectWord();
  }
  #connected() {
    this.#refusals = 0;
    this.#isAnswered = false;
    this.asked.end();
    this.place.dataset.live = "";
    $("waiting").hidden = true;                            // a server that is cut off tells each who connects
    this.#expectWord();
    this.#state.clear();
    this.changed("reached");
  }
  #closed(code) {
    delete this.place.dataset.live;
    if (code === FINAL) {
      if (!this.#state.final) this.#state.sayFinally(ENDED, "page");
      return this.#end();
    }
    this.#refusals += 1;
    this.#state.sayUnlessMended();
    if (this.#refusals >= REFUSALS_MAX) this.asked.begin();
  }
  #answered(why) {
    this.#isAnswered = why !== null;
    this.#state.say(why ?? lost());
    if (this.#isAnswered) this.changed("reached");
  }
  #sentElsewhere(elsewhere) {
    if (elsewhere.startsWith("/signin")) this.#state.sayFinally("You have signed out.", "session");
    else this.#state.sayFinally("This page is not open to you any more.", "page");
    this.#end();
  }
  #end() {
    this.#expectBy = Infinity;
    this.asked.end();
    this.changed(this.#state.final === "session" ? "session over" : "closed");
  }
  #isDead() {
    if (this.#state.final) return;
    this.#state.say(lost());
    this.#renew();
  }
  // htmx believes a close event of its socket. The socket itself would tell of its end after minutes, or never.
  #renew() {
    const connection = this.#connection;
    if (this.#state.final || !connection?.socket) return;
    clearTimeout(connection.timer);
    connection.attempt = 0;
    connection.socket.dispatchEvent(new CloseEvent("close", {code: 1006}));
  }
}
