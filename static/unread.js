// The news: counts in the sidebar, the title and the icon; the "New" line; and telling the server what was read.
"use strict";

const FOLLOW_MS = 300;            // so long one reads before the server hears of it; of leaving it hears at once
const FOLLOW_AGAIN_MS = 600_000;  // while one stays, it hears so again, and how far one has read
const FOLLOW_LOST_MS = 5_000;     // at most, after a new connection
const COUNT_MAX = 99;             // beyond, it is "99+"; the server counts one more, and no further
const ASK_COUNT_MS = 3_000;       // at most, until a page asks for a count that it cannot know

// The counts that the page was made with: channel → [unread messages, the transaction up to which all is read, those
// that mention the reader].
function countsOf(news) {
  const counts = new Map();
  for (const alike of news.dataset.counts.split(",")) {
    const [count, upto, calls, ...channels] = alike.split(" ");
    for (const channel of channels) counts.set(channel, [count, upto, calls].map(Number));
  }
  return counts;
}

// The number of unread messages of others, by channel: those that the page was made with and those that came since,
// less those that went. With `isCalls`, the number of those that mention the reader, or everybody. `isUnsure` is a
// channel of which a message went, and of which the server has not counted all.
function countNews(news, isCalls = false) {
  const made = Number(news.dataset.tx), mine = news.dataset.mem, given = countsOf(news);
  const counts = new Map(), ids = new Set();
  let isUnsure = null;
  const add = (channel, n) => counts.set(channel, Math.max(0, (counts.get(channel) ?? 0) + n));
  const items = [...news.children].map(item => ({id: item.id, ...item.dataset}));
  for (const [channel, [count, , calls]] of given) add(channel, isCalls ? calls : count);
  const gone = new Set(items.filter(one => one.id.startsWith("gone-")).map(one => one.id.slice(5)));
  for (const one of items) {
    const id = one.id.replace(/^(new|gone)-/, "");
    if (!one.id || one.mem === mine || Number(one.tx) <= made || ids.has(one.id)) continue;
    ids.add(one.id);
    if (isCalls && !(one.for ?? "").split(" ").some(id => id === mine || id === one.channel)) continue;
    if (one.id.startsWith("new-")) { if (!gone.has(id)) add(one.channel, 1); }
    else if (given.has(one.channel) && Number(one.said) > given.get(one.channel)[1] && Number(one.said) <= made) {
      if (given.get(one.channel)[0] > COUNT_MAX) isUnsure = one.channel; else add(one.channel, -1);
    }
  }
  for (const one of items) if ("followed" in one) counts.delete(one.channel);      // it is being read on another page
  return {counts, isUnsure};
}

const shownCount = count => count > COUNT_MAX ? `${COUNT_MAX}+` : String(count);

function watchNews() {
  const list = $("messages"), isThread = list?.dataset.thread !== undefined;
  const here = isThread ? undefined : location.pathname.match(/\/channel\/([\w-]+)$/)?.[1];
  const icon = document.querySelector("link[rel=icon]"), quietIcon = icon.href;
  const loudIcon = document.querySelector("meta[name=icon-with-news]").content;
  const isLive = list?.hasAttribute("hx-ws:connect"), page = crypto.randomUUID?.() ?? `${Math.random()}`;
  let seen = null, isFollowing = false, mayBeFollowing = false, timer = null, isMarked = false, asks = null, word = 0;
  const atEnd = () => isLive && list.scrollHeight - list.scrollTop - list.clientHeight < NEAR_PX;
  const isInSight = () => document.visibilityState === "visible" && document.hasFocus() && atEnd();
  const isReading = () => here && !isMarked && !kept.isOver && isInSight();
  // A page of older messages says how many there are to go to, and how many came while it was read.
  const past = document.querySelector(".past a"), place = HERE.split("/channel/")[1], came = new Set();
  function tellPast(count) {
    for (const {id, dataset: {channel, mem}} of $("news").children) {
      if (channel !== place || mem === $("news").dataset.mem) continue;
      if (id.startsWith("new-")) came.add(id.slice(4));
      if (id.startsWith("gone-")) came.delete(id.slice(5));
    }
    const more = count > COUNT_MAX && came.size ? `, ${shownCount(came.size)} of them since you opened this page` : "";
    const words = count ? `${shownCount(count)} new ${count === 1 ? "message" : "messages"}${more} ↓` : "Back to now";
    if (past.textContent !== words) past.textContent = words;
  }
  const mutedOf = () => new Set([...$("news").querySelectorAll("[data-muted]")].map(one => one.dataset.channel));

  // Puts a mark on the element only where it changes: the observers below would hear themselves.
  function mark(link, text, isMuted, calls) {
    if ((link.dataset.unread ?? "") !== text) { if (text) link.dataset.unread = text; else delete link.dataset.unread; }
    link.classList.toggle("muted", isMuted);
    link.classList.toggle("called", calls > 0);
    if (!text) return link.removeAttribute("aria-label");
    const name = (link.querySelector("span") ?? link).textContent;
    link.setAttribute("aria-label", `${name}, ${text} unread${calls ? ", you are mentioned" : ""}`);
  }
  function show() {
    if (!$("news")) return;
    look();
    const {counts, isUnsure} = countNews($("news")), calls = countNews($("news"), true).counts, muted = mutedOf();
    if (isUnsure) askCount(isUnsure);
    let total = 0;
    for (const link of document.querySelectorAll(".side-lists li a, .pick a")) {
      const id = link.pathname.split("/channel/")[1], count = counts.get(id) ?? 0;
      mark(link, count ? shownCount(count) : "", muted.has(id), count && calls.get(id));
      if (!muted.has(id) && link.closest(".side-lists")) total += count;
    }
    if (past) tellPast(counts.get(place) ?? 0);
    const title = document.title.replace(/^\(\d+\+?\) /, "");
    const wanted = total ? `(${shownCount(total)}) ${title}` : title;
    if (document.title !== wanted) document.title = wanted;
    const href = total ? loudIcon : quietIcon;
    if (icon.href !== href) icon.href = href;
    if (total) navigator.setAppBadge?.(total).catch(() => {}); else navigator.clearAppBadge?.().catch(() => {});
    if ($("read-all")) $("read-all").hidden = !total;
  }
  // Messages here are read while the end is in sight. The server hears when that begins and ends, not of each message.
  function look() {
    const isHere = isReading();
    if (isHere) {
      seen = $("cursor").value;
      if (forget() && isFollowing) tell();                         // marked as unread elsewhere
    }
    if (isHere && !isFollowing) timer ??= setTimeout(follow, FOLLOW_MS);
    if (!isHere && timer) { clearTimeout(timer); timer = null; }
    if (!isHere) leave();
  }
  function follow() {
    timer = null;
    if (!isReading()) return;
    seen = $("cursor").value;
    tell();
  }
  // Takes the messages here out of the news; returns true if the server had counted some of them.
  function forget() {
    const counts = countsOf($("news")), had = counts.delete(here);
    if (had) $("news").dataset.counts = [...counts].map(([id, given]) => [...given, id].join(" ")).join();
    for (const item of [...$("news").children]) if (item.dataset.channel === here && item.id) item.remove();
    return had;
  }
  function tell(isLeaving = false) {
    isFollowing = !isLeaving;
    if (kept.isOver) return;
    mayBeFollowing = !isLeaving;               // a word may be heard though its answer is lost, as when the page goes
    const fields = {upto: seen, page, word: word += 1, ...(isLeaving ? {} : {stays: 1})};
    send(`${location.pathname}/read`, fields).catch(() => { isFollowing = isLeaving; });
  }
  function leave() { if (isFollowing || mayBeFollowing) tell(true); }
  async function send(path, fields) {
    const token = document.querySelector("[name='__anti-forgery-token']").value;
    const headers = {"X-CSRF-Token": token, "HX-Request": "true"}, body = new URLSearchParams(fields);
    const answer = await fetch(path, {method: "POST", keepalive: true, headers, body});
    if (!answer.ok) throw new Error(answer.status);
  }
  const tellAgain = () => { if (isFollowing) tell(); };
  setInterval(tellAgain, FOLLOW_AGAIN_MS);
  // The server may have forgotten it meanwhile.
  document.addEventListener("htmx:ws:after:connection", () => {
    if (isFollowing) setTimeout(tellAgain, FOLLOW_LOST_MS * Math.random());
  });
  // A page that cannot know a count is told all of them; a thousand pages do not ask at once.
  function askCount(channel) {
    const base = location.pathname.split("/channel/")[0];
    asks ??= setTimeout(() => {
      asks = null;
      send(`${base}/channel/${channel}/read`, {upto: 0}).catch(() => {});
    }, ASK_COUNT_MS * Math.random());
  }

  // The "New" line stands before the first message that came while one did not read, until one leaves the channel.
  let line = null;
  function drawLine() {
    for (const one of list.querySelectorAll(".first-new")) if (one.id !== line) one.classList.remove("first-new");
    if (line) $(line)?.classList.add("first-new");
  }
  if (list) {
    if (list.dataset.new && $(`message-${list.dataset.new}`)) {
      line = `message-${list.dataset.new}`;
      drawLine();
      requestAnimationFrame(() => {
        const top = $(line)?.getBoundingClientRect().top;
        if (top !== undefined) list.scrollTop += top - list.getBoundingClientRect().top - LINE_PX;
        show();
      });
    }
    new MutationObserver(changes => {
      const isOthers = node => node.matches?.(".message:not(.pending)") && node.dataset.mem !== list.dataset.mem;
      const added = changes.flatMap(change => [...change.addedNodes]).find(isOthers);
      if (added && !isReading() && !line && added === [...list.querySelectorAll(".message")].at(-1)) line = added.id;
      drawLine();
      show();
    }).observe(list, {childList: true});
    list.addEventListener("scroll", show, {passive: true});
    messageActs.unread = async message => {
      isMarked = true;                           // until one goes elsewhere: else it would be read again at once
      isFollowing = mayBeFollowing = false;
      line = message.id;
      drawLine();
      await send(`${pathOf(message)}/unread`, {});
    };
  }
  new MutationObserver(() => show()).observe($("side"), {childList: true, subtree: true});
  const title = document.querySelector("title");
  new MutationObserver(() => show()).observe(title, {childList: true, characterData: true, subtree: true});
  new MutationObserver(() => show()).observe($("shell"), {childList: true});          // #news itself is replaced
  document.addEventListener("htmx:after:swap", show);
  for (const event of ["focus", "blur"]) addEventListener(event, show);
  document.addEventListener("visibilitychange", show);
  addEventListener("pagehide", leave);
  document.querySelector("form.out")?.addEventListener("submit", leave, true);      // while one is still known
  $("read-all")?.addEventListener("click", () => send(`${location.pathname.split("/channel/")[0]}/read`, {}));
  document.addEventListener("keydown", event => {
    if (event.key === "Escape" && event.shiftKey) $("read-all")?.click();
  });
  show();
}

if ($("news")) watchNews();
