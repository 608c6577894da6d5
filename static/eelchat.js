// What the page does by itself: scrolling, times, the composer, the state of the connection. The server does the rest.
"use strict";

const NEAR_PX = 100;              // of the end: still reading the newest
const OFFLINE_SAY_MS = 5000;      // shorter cuts mend themselves unnoticed
const $ = id => document.getElementById(id);

// Times are sent in UTC and told in the reader's own.
const clock = new Intl.DateTimeFormat(undefined, {hour: "2-digit", minute: "2-digit"});
const calendar = new Intl.DateTimeFormat(undefined, {day: "numeric", month: "short", hour: "2-digit", minute: "2-digit"});

function tellTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]:not([data-told])")) {
    const at = new Date(time.dateTime);
    time.textContent = (at.toDateString() === new Date().toDateString() ? clock : calendar).format(at);
    time.title = at.toLocaleString();
    time.dataset.told = "";
  }
}

// Messages of one person within five minutes stand together, and each day has its name.
const dayName = new Intl.DateTimeFormat(undefined, {weekday: "long", day: "numeric", month: "long"});
const TOGETHER_MS = 300_000;

function groupMessages(list) {
  let mem = null, at = new Date(0);
  for (const message of list.querySelectorAll(".message")) {
    const next = new Date(message.querySelector("time").dateTime);
    const isSameDay = next.toDateString() === at.toDateString();
    message.classList.toggle("follows", isSameDay && message.dataset.mem === mem && next - at < TOGETHER_MS);
    message.classList.toggle("mine", message.dataset.mem === list.dataset.mem);
    if (isSameDay) delete message.dataset.day;
    else message.dataset.day = dayName.format(next);
    mem = message.dataset.mem; at = next;
  }
}

// A fragment that comes again, because a connection ended while it was being shown, adds nothing twice.
document.addEventListener("htmx:before:swap", event => {
  for (const task of event.detail.tasks ?? []) {
    if (task.type !== "oob" || task.swapSpec.style !== "beforeend") continue;
    for (const message of task.fragment.querySelectorAll(".message[id]")) if ($(message.id)) message.remove();
  }
});

// The list follows new messages only for someone who is at its end.
function followMessages(list) {
  let atEnd = true, unread = 0, anchor = null, anchorTop = 0;
  const pill = $("pill");
  const toEnd = () => { list.scrollTop = list.scrollHeight; unread = 0; pill.hidden = true; };
  const isNear = () => list.scrollHeight - list.scrollTop - list.clientHeight < NEAR_PX;
  const topOf = element => element.getBoundingClientRect().top;
  const remember = () => {          // the first text in sight, and where it stands
    anchor = [...list.querySelectorAll(".message p")].find(text => text.getBoundingClientRect().bottom > topOf(list));
    if (anchor) anchorTop = topOf(anchor);
  };
  list.addEventListener("scroll", () => { atEnd = isNear(); if (atEnd) { unread = 0; pill.hidden = true; } remember(); }, {passive: true});
  pill.addEventListener("click", toEnd);
  const tidy = () => { tellTimes(list); groupMessages(list); };
  list.addEventListener("htmx:after:swap", tidy);          // a morph changes texts in place, which the observer does not see
  new MutationObserver(changes => {
    tidy();
    const added = changes.flatMap(change => [...change.addedNodes]).filter(node => node.classList?.contains("message"));
    const last = list.lastElementChild;
    const isNew = added.includes(last);
    if (isNew && atEnd) toEnd();
    else if (isNew) {
      unread += added.length;
      pill.textContent = unread === 1 ? "1 new message ↓" : `${unread} new messages ↓`;
      pill.hidden = false;
    } else if (added.length && anchor?.isConnected) list.scrollTop += topOf(anchor) - anchorTop;      // older ones came above: what is read stays put
    remember();
    if (isNew && !last.classList.contains("mine")) $("heard").textContent = added.length === 1 ? `${last.querySelector("b").textContent}: ${last.querySelector("p").textContent}` : `${added.length} new messages`;
  }).observe(list, {childList: true, subtree: true});
  new ResizeObserver(() => { if (atEnd) toEnd(); }).observe(list);
  $("compose").addEventListener("submit", toEnd);
  tidy();
  toEnd();
}

// What is typed is never lost: the box is emptied when a message goes, and filled again if it did not arrive.
function keepText(form) {
  const box = $("text"), id = form.elements.post, failure = $("failure");
  const sent = new Map(), draft = `draft ${location.pathname}`;
  const fit = () => { box.style.removeProperty("height"); box.style.height = `${Math.min(box.scrollHeight + 2, innerHeight / 3)}px`; };
  const isTouch = matchMedia("(pointer: coarse)").matches;
  const keep = () => box.value ? sessionStorage.setItem(draft, box.value) : sessionStorage.removeItem(draft);
  box.addEventListener("input", () => { fit(); keep(); });
  if (!box.value) box.value = sessionStorage.getItem(draft) ?? "";
  fit();
  addEventListener("resize", fit);
  box.addEventListener("keydown", event => {
    if (event.key !== "Enter" || event.isComposing || event.keyCode === 229) return;
    if (event.ctrlKey || event.metaKey || (!event.shiftKey && !isTouch)) { event.preventDefault(); form.requestSubmit(); }
  });
  form.addEventListener("htmx:config:request", event => {
    const body = event.detail.ctx.request.body;
    const post = {id: id.value, text: box.value};
    sent.set(event.detail.ctx, post);
    if (body?.set) { body.set("post", post.id); body.set("text", post.text); }
    box.value = ""; failure.hidden = true; fit();
    id.value = crypto.randomUUID ? crypto.randomUUID() : newId();
  });
  const restore = (ctx, why) => {
    const post = sent.get(ctx);
    if (!post) return;
    sent.delete(ctx);
    if (!box.value) id.value = post.id;              // sent again unchanged, it is still the same message
    box.value = box.value ? `${post.text}\n${box.value}` : post.text;
    failure.textContent = why; failure.hidden = false; fit(); keep();
  };
  form.addEventListener("htmx:after:request", async event => {
    const ctx = event.detail.ctx, status = ctx.response?.status ?? ctx.response?.raw?.status;
    if (status === 204 && !ctx.hx?.redirect) { sent.delete(ctx); keep(); return; }     // elsewhere: signed out, or the channel is gone
    const text = typeof ctx.text === "string" && status >= 400 && ctx.text.length < 400 && !ctx.text.includes("<") ? ctx.text : "";
    restore(ctx, text || "That was not sent. Your text is still here: try again.");
  });
  form.addEventListener("htmx:error", event => restore(event.detail.ctx, "The server cannot be reached. Your text is still here: try again in a moment."));
  if (!isTouch) box.focus();
}

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = bytes[6] & 15 | 64; bytes[8] = bytes[8] & 63 | 128;
  return [...bytes].map((byte, n) => ([4, 6, 8, 10].includes(n) ? "-" : "") + byte.toString(16).padStart(2, "0")).join("");
}

function sayConnection(list) {
  let timer;
  const say = text => { const state = $("connection"); if ("final" in state.dataset) return; state.textContent = text; state.hidden = !text; };
  list.addEventListener("htmx:ws:after:connection", () => { clearTimeout(timer); timer = null; list.dataset.live = ""; say(""); });
  list.addEventListener("htmx:ws:close", () => {
    delete list.dataset.live;
    timer ??= setTimeout(() => say("Connection lost. Trying again …"), OFFLINE_SAY_MS);
  });
  addEventListener("offline", () => say("You are offline."));      // the socket itself would notice in a quarter of an hour
  addEventListener("online", () => { if ("live" in list.dataset) say(""); });
}

function openDrawer() {
  const button = document.querySelector(".menu"), side = $("side");
  if (!button) return;
  const set = open => { document.body.classList.toggle("drawer", open); button.setAttribute("aria-expanded", open); $("main").inert = open; };
  button.addEventListener("click", () => { const open = !document.body.classList.contains("drawer"); set(open); if (open) side.querySelector("a").focus(); });
  document.addEventListener("keydown", event => { if (event.key === "Escape" && document.body.classList.contains("drawer")) { set(false); button.focus(); } });
  document.addEventListener("click", event => { if (!side.contains(event.target) && !button.contains(event.target)) set(false); });
}

addEventListener("pageshow", event => { if (event.persisted) location.reload(); });      // its socket was closed for good when it was left

document.querySelector("form.me")?.addEventListener("submit", () => sessionStorage.clear());       // whoever signs out leaves no drafts behind

tellTimes(document);
openDrawer();
if ($("messages")) { followMessages($("messages")); sayConnection($("messages")); }
if ($("compose")) keepText($("compose"));
