// What the page does by itself: times, groups, the place in the list, copying, the drawer. `line.js` watches the connection, `outbox.js` sends what is
// written; the server does the rest.
"use strict";

const NEAR_PX = 100;              // of the end: still reading the newest
const NARROW_PX = 720;           // below it the list of channels is a drawer, as in the style sheet
const SIBLING_MS = 15_000;        // so long after another tab signed out, the end of the session is its doing

// ── Times ────────────────────────────────────────────────────────────────────────────────────────────────────

// Times are sent in UTC and told in the reader's own; the year stands where it is not this one.
const format = options => new Intl.DateTimeFormat(undefined, options);
const DAY = {day: "numeric", month: "short"}, CLOCK = {hour: "2-digit", minute: "2-digit"}, YEAR = {year: "numeric"}, WEEKDAY = {weekday: "long", day: "numeric", month: "long"};
const clock = format(CLOCK), calendar = format({...DAY, ...CLOCK}), calendarOfYears = format({...DAY, ...YEAR, ...CLOCK});
const dayName = format(WEEKDAY), dayNameOfYears = format({...WEEKDAY, ...YEAR}), inFull = format({dateStyle: "full", timeStyle: "medium"});

function tellTimes(root) {
  const now = new Date();
  for (const time of root.querySelectorAll("time[datetime]:not([data-told])")) {
    const at = new Date(time.dateTime), isToday = at.toDateString() === now.toDateString(), isThisYear = at.getFullYear() === now.getFullYear();
    time.textContent = (isToday ? clock : isThisYear ? calendar : calendarOfYears).format(at);
    time.title = inFull.format(at);
    time.dataset.told = "";
    time.dataset.clock = clock.format(at);
  }
}

// Messages of one person within five minutes stand together, and each day has its name.
const TOGETHER_MS = 300_000;

function groupMessages(list) {
  let mem = null, at = new Date(0);
  const year = new Date().getFullYear();
  for (const message of list.querySelectorAll(".message")) {
    const next = new Date(message.querySelector("time").dateTime), isSameDay = next.toDateString() === at.toDateString();
    message.classList.toggle("follows", isSameDay && message.dataset.mem === mem && next - at < TOGETHER_MS);
    message.classList.toggle("mine", message.dataset.mem === list.dataset.mem);
    if (isSameDay) delete message.dataset.day;
    else message.dataset.day = (next.getFullYear() === year ? dayName : dayNameOfYears).format(next);
    mem = message.dataset.mem; at = next;
  }
}

// ── The list ─────────────────────────────────────────────────────────────────────────────────────────────────

// A fragment that comes again, because a connection ended while it was being shown, adds nothing twice; one's own message takes the place of the pending one.
function addOnce(outbox) {
  document.addEventListener("htmx:before:swap", event => {
    for (const task of event.detail.tasks ?? []) {
      if (task.type !== "oob" || task.swapSpec.style !== "beforeend") continue;
      for (const message of task.fragment.querySelectorAll(".message[id]")) {
        const shown = $(message.id);
        if (outbox.isDeleted(message.id.slice("message-".length)) || shown && !isPending(shown)) message.remove();
        else if (shown) shown.remove();
      }
    }
  });
}

// The first text in sight and where it stands, so that it can be put back there when something above it, or the width of the window, has changed.
function placeIn(list) {
  let id = null, offset = 0, share = 0;
  const topOf = element => element.getBoundingClientRect().top;
  const textOf = id => id && $(id)?.querySelector("p");
  return {
    remember() {
      const text = [...list.querySelectorAll(".message p")].find(one => one.getBoundingClientRect().bottom > topOf(list));
      id = text?.closest(".message").id ?? null;
      if (text) { offset = topOf(text) - topOf(list); share = offset / text.offsetHeight; }
    },
    restore() {
      const text = textOf(id);
      if (text) list.scrollTop += topOf(text) - topOf(list) - (offset < 0 ? share * text.offsetHeight : offset);
    },
  };
}

// The list follows new messages only for someone who is at its end. `settled()` puts pending messages in their place first.
function followMessages(list, settled) {
  let atEnd = true, unread = 0;
  const pill = $("pill"), place = placeIn(list);
  const seen = () => { unread = 0; pill.hidden = true; };
  const toEnd = () => { list.scrollTop = list.scrollHeight; atEnd = true; seen(); };
  const isNear = () => list.scrollHeight - list.scrollTop - list.clientHeight < NEAR_PX;
  const tidy = () => { settled(); tellTimes(list); groupMessages(list); };
  const isReal = node => node.classList?.contains("message") && !isPending(node);

  function hear(messages) {
    const others = messages.filter(message => !message.classList.contains("mine")), [one] = others;
    if (one) $("heard").textContent = others.length === 1 ? `${one.querySelector("b").textContent}: ${one.querySelector("p").textContent}` : `${others.length} new messages`;
    if (atEnd) return;
    unread += messages.length;
    pill.textContent = unread === 1 ? "1 new message ↓" : `${unread} new messages ↓`;
    pill.hidden = false;
  }
  list.addEventListener("scroll", () => { atEnd = isNear(); if (atEnd) seen(); place.remember(); }, {passive: true});
  pill.addEventListener("click", () => { toEnd(); $("text")?.focus(); });
  list.addEventListener("htmx:after:swap", tidy);          // a morph changes texts in place, which the observer does not see
  new MutationObserver(changes => {
    tidy();
    const added = new Set(changes.flatMap(change => [...change.addedNodes]).filter(isReal));
    const messages = [...list.querySelectorAll(".message:not(.pending)")], last = messages.at(-1);
    if (added.has(last)) hear(messages.filter(message => added.has(message)));
    if (atEnd) list.scrollTop = list.scrollHeight;
    else place.restore();                                  // older ones came above: what is read stays put
    place.remember();
  }).observe(list, {childList: true, subtree: true});
  new ResizeObserver(() => { if (atEnd) toEnd(); else place.restore(); }).observe(list);
  $("compose").addEventListener("submit", toEnd);
  keepFocusInOlder(list);
  tidy();
  toEnd();
}

// The link to older messages is replaced by them; whoever had gone there by the keyboard stays where they were.
function keepFocusInOlder(list) {
  let hadFocus = false;
  document.addEventListener("htmx:before:swap", () => { hadFocus = $("older")?.contains(document.activeElement) ?? false; });
  document.addEventListener("htmx:after:swap", () => {
    if (hadFocus && document.activeElement === document.body) ($("older")?.querySelector("a") ?? list).focus({preventScroll: true});
    hadFocus = false;
  });
}

// Messages are copied as people would write them down: who, when, what.
function copyMessages(list) {
  list.addEventListener("copy", event => {
    const range = getSelection().rangeCount ? getSelection().getRangeAt(0) : null;
    const messages = [...list.querySelectorAll(".message")].filter(message => range?.intersectsNode(message.querySelector("p")));
    const isWhole = message => { const header = message.querySelector("header"); return range.comparePoint(header, 0) >= 0 && range.comparePoint(header, 0) <= 0; };
    if (messages.length < 2 && !messages.some(isWhole)) return;
    const textOf = message => {
      const part = document.createRange(), text = message.querySelector("p");
      part.selectNodeContents(text);
      if (range.comparePoint(text, 0) < 0) part.setStart(range.startContainer, range.startOffset);
      if (range.comparePoint(text, text.childNodes.length) > 0) part.setEnd(range.endContainer, range.endOffset);
      return part.toString();
    };
    const lines = messages.map(message => `${message.querySelector("b").textContent}, ${calendarOfYears.format(new Date(message.querySelector("time").dateTime))}\n${textOf(message)}`);
    event.clipboardData.setData("text/plain", lines.join("\n\n"));
    event.preventDefault();
  });
}

// ── The drawer ───────────────────────────────────────────────────────────────────────────────────────────────

// Open, it has the focus and the page behind it is inert; Escape, Back, a click beside it and a wider window close it.
function openDrawer() {
  const button = document.querySelector(".menu"), side = $("side"), narrow = matchMedia(`(max-width: ${NARROW_PX}px)`);
  if (!button) return;
  const isOpen = () => document.body.classList.contains("drawer");
  const set = open => { document.body.classList.toggle("drawer", open); button.setAttribute("aria-expanded", open); $("main").inert = open; };
  function open() {
    set(true);
    history.pushState({drawer: true}, "");
    side.querySelector("a").focus();
  }
  function close() {
    if (!isOpen()) return;
    set(false);
    if (history.state?.drawer) history.back();
    button.focus();
  }
  button.addEventListener("click", () => isOpen() ? close() : open());
  document.addEventListener("keydown", event => { if (event.key === "Escape") close(); });
  document.addEventListener("click", event => { if (!side.contains(event.target) && !button.contains(event.target)) close(); });
  addEventListener("popstate", () => { if (isOpen()) { set(false); button.focus(); } });
  narrow.addEventListener("change", () => { if (!narrow.matches) close(); });
}

// ── Dialogs ──────────────────────────────────────────────────────────────────────────────────────────────────

// A link to a dialog opens it; without this script the address alone does. A quiet form stays on its page: the socket shows what it did.
function openDialogs() {
  document.addEventListener("click", event => {
    const opener = event.target.closest("[data-dialog]"), dialog = opener && $(opener.dataset.dialog);
    if (dialog?.showModal) { event.preventDefault(); opener.closest("details.more")?.removeAttribute("open"); dialog.showModal(); dialog.querySelector("input")?.select(); return; }
    if (event.target.closest("[data-close]") || event.target.tagName === "DIALOG") event.target.closest("dialog")?.close();
    for (const more of document.querySelectorAll("details.more[open]")) if (!more.contains(event.target)) more.open = false;
  });
  document.addEventListener("keydown", event => {
    const more = event.key === "Escape" && document.querySelector("details.more[open]");
    if (more) { more.open = false; more.querySelector("summary").focus(); }
  });
  for (const form of document.querySelectorAll("form[data-quiet]")) {
    const failure = form.querySelector(".error");
    form.addEventListener("htmx:after:request", event => {
      const ctx = event.detail.ctx, status = ctx.response?.status ?? ctx.response?.raw?.status;
      failure.hidden = status < 400;
      if (status < 400) form.closest("dialog")?.close();
      else failure.textContent = typeof ctx.text === "string" && ctx.text.length < 400 && !ctx.text.includes("<") ? ctx.text : "That was not saved. Try again.";
    });
    form.addEventListener("htmx:error", () => { failure.textContent = "The server cannot be reached. Try again in a moment."; failure.hidden = false; });
  }
}

// ── The page ─────────────────────────────────────────────────────────────────────────────────────────────────

// Another tab that signs out says so: this one then knows why its session ended, and shows the next person at this machine nothing.
function hearSiblings() {
  const siblings = new BroadcastChannel("eelchat");
  let signedOutAt = 0;
  siblings.onmessage = () => { signedOutAt = Date.now(); if (!livePart()) setTimeout(() => location.reload(), 1_000); };
  document.querySelector("form.out")?.addEventListener("submit", () => { kept.clear(); siblings.postMessage("signing out"); });
  return () => Date.now() - signedOutAt < SIBLING_MS;
}

const livePart = () => document.querySelector("[hx-ws\\:connect]");      // what htmx keeps a socket for

const signInPath = error => `/signin?${new URLSearchParams({error, "return-to": location.pathname})}`;

// To the sign-in page, from which one comes back here, or to fresh rights for this page. Not again and again: then it returns false.
function reloadForRights() {
  if (Date.now() - Number(sessionStorage.reloadedAt ?? 0) < RELOADED_MS) return false;
  sessionStorage.reloadedAt = Date.now();
  kept.leave();
  location.reload();
  return true;
}

// What was written in a channel that is gone is shown once more, until its author has taken it elsewhere.
function showOrphans(outbox) {
  const community = location.pathname.split("/channel/")[0], channels = $("channels");
  if (!channels || !$("main")) return;
  const isThere = path => path === location.pathname || [...channels.querySelectorAll("a")].some(link => link.pathname === path);
  for (const [path, text] of kept.writings().filter(([path]) => path.startsWith(`${community}/channel/`) && !isThere(path))) {
    const card = document.createElement("section"), box = document.createElement("textarea"), button = document.createElement("button");
    card.className = "orphan";
    card.append("A channel in which you were writing is gone. This is what you wrote:", box, button);
    Object.assign(box, {value: text, readOnly: true, rows: 3, ariaLabel: "What you wrote"});
    Object.assign(button, {type: "button", className: "soft", textContent: "Delete"});
    button.addEventListener("click", () => { kept.keepDraft(path, ""); outbox.drop(path); card.remove(); });
    $("main").prepend(card);
  }
}

// What is written here waits for the same person to sign in, in this tab or another one; then this page comes back, too.
function endSession(bySibling) {
  kept.leave(() => location.reload());
  if (bySibling) return location.replace(signInPath("signed-out"));
  const link = document.createElement("a");
  Object.assign(link, {href: signInPath("not-signed-in"), textContent: "Sign in again"});
  $("connection").append(" ", link);
}

function openPage() {
  const list = $("messages"), form = $("compose"), shell = $("shell");
  kept.open(shell?.dataset.person ?? "");
  tellTimes(document);
  openDrawer();
  openDialogs();
  const hasSiblingSignedOut = hearSiblings();
  if (!shell) return;
  const place = livePart(), token = document.querySelector("[name='__anti-forgery-token']").value;
  let line = null, show = () => {};
  const outbox = openOutbox(token, {
    shown: () => show(),
    stored: post => {
      if (post.path !== location.pathname) return;
      if (line) line.expect(() => !outbox.of(post.path).includes(post));
      else if (list) location.assign(location.pathname);           // older messages are on the screen; this one is among the newest
    },
    signedOut: reloadForRights,
  });
  if (list && form) {
    addOnce(outbox);
    show = showOutbox(list, outbox);
    followMessages(list, show);
    copyMessages(list);
    openBox(form, outbox);
  }
  if (place) line = openLine(place, what => {
    if (what === "reached") { outbox.reached(); outbox.work(); }
    if (what === "session over") endSession(hasSiblingSignedOut());
  });
  showOrphans(outbox);
  outbox.work();
}

addEventListener("pageshow", event => { if (event.persisted) location.reload(); });      // its socket was closed for good when it was left

openPage();
