// The line to the server. htmx opens the socket, and opens it again; this file notices that a socket is dead, says so, and asks for news
// by plain requests where no socket comes about.
"use strict";

const WORD_MS = 25_000;           // the server says a word every 20 s: a page that hears nothing for so long is on a dead line
const ECHO_MS = 3_000;            // a stored message comes back this soon, or the line is dead
const OFFLINE_SAY_MS = 5_000;     // shorter cuts mend themselves unnoticed
const SAID_MS = 1_500;            // what was said stays this long, so that it can be read
const REFUSALS_MAX = 4;           // closings in a row without an opening, some 3 s; then the page asks by plain requests
const ASK_MS = 4_000;             // between two such requests; twice as long after each failure, up to ASK_MS_MAX
const ASK_MS_MAX = 60_000;
const ANSWER_MS = 15_000;         // for a request to be answered
const FINAL = 1008;               // the one code with which the server closes for good; after all others htmx tries again
const LOST = "Connection lost. Trying again …";

const $ = id => document.getElementById(id);

// The word in the page's head about the connection. One that is final stays.
function connectionState() {
  let timer = null, saidAt = 0;
  const state = () => $("connection");               // a notice of the server takes its place
  const show = text => {
    if ("final" in state().dataset) return;
    if (text) saidAt = Date.now();
    state().textContent = text;
    state().hidden = !text;
  };
  const later = (text, ms) => { clearTimeout(timer); timer = setTimeout(show, ms, text); };
  return {
    say(text) { clearTimeout(timer); show(text); },
    sayUnlessMended() { if (state().hidden) later(LOST, OFFLINE_SAY_MS); },
    clear() { later("", Math.max(0, saidAt + SAID_MS - Date.now())); },
    sayFinally(text, what) { this.say(text); state().dataset.final = what; },
    isFinal: () => "final" in state().dataset,
  };
}

// Asks for news again and again, from `begin` to `end`. `told(why)` hears why there is no socket, or null if there was no answer;
// `closed(elsewhere)` where somebody without a right to this page is sent.
function questions(place, told, closed) {
  let timer = null, isAsking = false, wait = ASK_MS;
  const path = place.getAttribute("hx-ws:connect").split("/connect")[0];

  async function news() {
    const query = new URLSearchParams({after: $("cursor").value, origin: location.origin});
    const answer = await fetch(`${path}/news?${query}`, {headers: {"HX-Request": "true"}, signal: AbortSignal.timeout(ANSWER_MS)});
    if (!answer.ok) throw new Error(answer.status);
    return answer.headers.has("HX-Redirect") ? {elsewhere: answer.headers.get("HX-Redirect")} : answer.json();
  }
  async function ask() {
    clearTimeout(timer);
    try {
      const {news: fragments, why, elsewhere} = await news();
      if (elsewhere) return closed(elsewhere);
      for (const text of isAsking ? fragments : [])
        await htmx.swap({sourceElement: place, target: place, swap: "innerHTML swapEmpty:false", text, transition: false});
      wait = ASK_MS;
      if (isAsking) told(why);
    } catch {
      wait = Math.min(2 * wait, ASK_MS_MAX);
      if (isAsking) told(null);
    }
    clearTimeout(timer);
    if (isAsking) timer = setTimeout(ask, wait * (0.8 + 0.4 * Math.random()));      // a thousand pages do not ask in step
  }
  return {
    begin() { if (!isAsking) { isAsking = true; ask(); } },
    end() { isAsking = false; clearTimeout(timer); },
    askNow() { if (isAsking) ask(); return isAsking; },
  };
}

// `changed("reached")` is called whenever the server has answered; "closed" and "session over" when this page may not hear it any more.
function openLine(place, changed) {
  const state = connectionState();
  let connection = null, expectBy = Infinity, refusals = 0, isAnswered = false;

  function end() {
    expectBy = Infinity;
    asked.end();
    changed($("connection").dataset.final === "session" ? "session over" : "closed");
  }
  const asked = questions(place, why => {
    isAnswered = why !== null;
    state.say(why ?? LOST);
    if (isAnswered) changed("reached");
  }, elsewhere => {
    const isSession = elsewhere.startsWith("/signin");
    state.sayFinally(isSession ? "You have signed out." : "This channel is not open to you any more.", isSession ? "session" : "page");
    end();
  });

  // htmx believes a close event of its socket. The socket itself would tell of its end after minutes, or never.
  function renew() {
    if (state.isFinal() || !connection?.socket) return;
    clearTimeout(connection.timer);
    connection.attempt = 0;
    connection.socket.dispatchEvent(new CloseEvent("close", {code: 1006}));
  }
  function isDead() {
    if (state.isFinal()) return;
    state.say(LOST);
    renew();
  }
  htmx.config.ws.reconnectCodes = {includes: code => code !== FINAL};
  place.addEventListener("htmx:ws:before:connection", event => {
    connection = event.detail.connection;
    connection.config.reconnectMaxDelay = isAnswered ? ASK_MS_MAX : htmx.config.ws.reconnectMaxDelay;
    expectBy = Date.now() + WORD_MS;
  });
  place.addEventListener("htmx:ws:after:connection", () => {
    refusals = 0;
    isAnswered = false;
    asked.end();
    place.dataset.live = "";
    $("waiting").hidden = true;                       // a server that is cut off says so again to each who connects
    expectBy = Date.now() + WORD_MS;
    state.clear();
    changed("reached");
  });
  place.addEventListener("htmx:ws:before:message:incoming", () => { expectBy = Date.now() + WORD_MS; });
  place.addEventListener("htmx:ws:close", event => {
    delete place.dataset.live;
    if (event.detail.reason !== "closed") return;
    if (event.detail.code === FINAL) {
      if (!state.isFinal()) state.sayFinally("The server has closed this page's connection. Reload the page.", "page");
      return end();
    }
    refusals += 1;
    state.sayUnlessMended();
    if (refusals >= REFUSALS_MAX) asked.begin();
  });
  setInterval(() => { if (Date.now() > expectBy) isDead(); }, 1_000);
  addEventListener("offline", () => state.say("You are offline."));      // the socket would notice in a quarter of an hour
  addEventListener("online", () => { state.clear(); renew(); });
  return {
    // A message was stored: it must come back soon, or this page hears nothing. `isBack()` says whether it has.
    expect(isBack) {
      if (!asked.askNow()) setTimeout(() => { if (!isBack() && "live" in place.dataset) isDead(); }, ECHO_MS);
    },
  };
}
