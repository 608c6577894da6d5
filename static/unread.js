// What is new: counts in the sidebar, the title and the icon; the "New" line; and telling the server what was read.
"use strict";

const READ_AGAIN_MS = 30_000;     // while one reads what comes, the server hears of it this often; of catching up and leaving, at once
const COUNT_MAX = 99;             // beyond, it is "99+"

// How many messages of others are unread, by channel: those that the page was made with, those that came since, less those that went.
// With `isCalls`, how many of them mention the reader, or everybody.
function countNews(news, isCalls = false) {
  const made = Number(news.dataset.tx), mine = news.dataset.mem, counts = new Map(), ids = new Set(), said = new Map();
  const add = (channel, n) => counts.set(channel, Math.max(0, (counts.get(channel) ?? 0) + n));
  const items = [...news.children].map(item => ({id: item.id, ...item.dataset}));
  for (const one of items) if (one.count) { add(one.channel, Number(isCalls ? one.calls ?? 0 : one.count)); said.set(one.channel, Number(one.said)); }
  const gone = new Set(items.filter(one => one.id.startsWith("gone-")).map(one => one.id.slice(5)));
  for (const one of items) {
    const id = one.id.replace(/^(new|gone)-/, "");
    if (!one.id || one.mem === mine || Number(one.tx) <= made || ids.has(one.id)) continue;
    ids.add(one.id);
    if (isCalls && !(one.for ?? "").split(" ").some(id => id === mine || id === one.channel)) continue;
    if (one.id.startsWith("new-")) { if (!gone.has(id)) add(one.channel, 1); }
    else if (said.has(one.channel) && Number(one.said) > said.get(one.channel) && Number(one.said) <= made) add(one.channel, -1);
  }
  return counts;
}

function watchNews() {
  const list = $("messages"), channels = $("channels"), here = location.pathname.match(/\/channel\/([\w-]+)$/)?.[1];
  const icon = document.querySelector("link[rel=icon]"), quietIcon = icon.href, loudIcon = document.querySelector("meta[name=icon-with-news]").content;
  const path = `${location.pathname}/read`;
  let sentUpto = null, sentAt = 0, timer = null, hasPending = false, stays = false;
  const atEnd = () => list && list.scrollHeight - list.scrollTop - list.clientHeight < NEAR_PX;
  const isReading = () => here && !stays && document.visibilityState === "visible" && document.hasFocus() && atEnd();
  const lastId = () => [...list.querySelectorAll(".message:not(.pending)")].at(-1)?.id.slice("message-".length);
  const mutedOf = () => new Set([...$("news").querySelectorAll("[data-muted]")].map(one => one.dataset.channel));

  // Puts a mark on the element only where it changes: the observers below would hear themselves.
  function mark(link, text, isMuted, calls) {
    if ((link.dataset.unread ?? "") !== text) { if (text) link.dataset.unread = text; else delete link.dataset.unread; }
    link.classList.toggle("muted", isMuted);
    link.classList.toggle("called", calls > 0);
    const label = text ? `${(link.querySelector("span") ?? link).textContent}, ${text} unread${calls ? ", you are mentioned" : ""}` : "";
    if (label) link.setAttribute("aria-label", label); else link.removeAttribute("aria-label");
  }
  function show() {
    if (!$("news")) return;
    if (isReading()) forget();
    const counts = countNews($("news")), calls = countNews($("news"), true), muted = mutedOf();
    let total = 0;
    for (const link of document.querySelectorAll(".side-lists li a, .pick a")) {
      const id = link.pathname.split("/channel/")[1], count = counts.get(id) ?? 0;
      mark(link, count ? (count > COUNT_MAX ? `${COUNT_MAX}+` : String(count)) : "", muted.has(id), count && calls.get(id));
      if (!muted.has(id) && link.closest(".side-lists")) total += count;
    }
    const title = document.title.replace(/^\(\d+\+?\) /, ""), wanted = total ? `(${total > COUNT_MAX ? `${COUNT_MAX}+` : total}) ${title}` : title;
    if (document.title !== wanted) document.title = wanted;
    const href = total ? loudIcon : quietIcon;
    if (icon.href !== href) icon.href = href;
    if (total) navigator.setAppBadge?.(total).catch(() => {}); else navigator.clearAppBadge?.().catch(() => {});
    if ($("read-all")) $("read-all").hidden = !total;
  }
  function forget() {
    let had = false;
    for (const item of [...$("news").children]) if (item.dataset.channel === here && !("muted" in item.dataset)) { had ||= item.dataset.mem !== $("news").dataset.mem; item.remove(); }
    if (had || hasPending) tellSoon(had && Date.now() - sentAt > READ_AGAIN_MS ? 300 : READ_AGAIN_MS);
  }
  function tellSoon(ms) { hasPending = true; timer ??= setTimeout(tell, ms); }
  function tell() {
    clearTimeout(timer); timer = null;
    const upto = list && lastId();
    if (!hasPending || !upto || upto === sentUpto) { hasPending = false; return; }
    hasPending = false; sentUpto = upto; sentAt = Date.now();
    const token = document.querySelector("[name='__anti-forgery-token']").value;
    fetch(path, {method: "POST", keepalive: true, headers: {"X-CSRF-Token": token, "HX-Request": "true"}, body: new URLSearchParams({upto})}).catch(() => { sentUpto = null; });
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
      requestAnimationFrame(() => { const first = $(line); if (first) list.scrollTop += first.getBoundingClientRect().top - list.getBoundingClientRect().top - 60; show(); });
    }
    new MutationObserver(changes => {
      const added = changes.flatMap(change => [...change.addedNodes]).find(node => node.classList?.contains("message") && !node.classList.contains("pending") && node.dataset.mem !== list.dataset.mem);
      if (added && !isReading() && !line && added === [...list.querySelectorAll(".message")].at(-1)) line = added.id;
      drawLine();
      show();
    }).observe(list, {childList: true});
    list.addEventListener("scroll", show, {passive: true});
    messageActs.unread = async message => {
      stays = true;                                                // until one goes elsewhere: else it would be read again at once
      line = message.id;
      drawLine();
      await ask("POST", `${pathOf(message)}/unread`);
    };
  }
  new MutationObserver(() => show()).observe($("side"), {childList: true, subtree: true});
  new MutationObserver(() => show()).observe(document.querySelector("title"), {childList: true, characterData: true, subtree: true});
  new MutationObserver(() => show()).observe($("shell"), {childList: true});          // #news itself is replaced
  document.addEventListener("htmx:after:swap", show);
  for (const event of ["focus", "blur"]) addEventListener(event, () => { show(); if (event === "blur") tell(); });
  document.addEventListener("visibilitychange", () => { show(); if (document.visibilityState === "hidden") tell(); });
  addEventListener("pagehide", tell);
  $("read-all")?.addEventListener("click", () => ask("POST", `${location.pathname.split("/channel/")[0]}/read`));
  document.addEventListener("keydown", event => { if (event.key === "Escape" && event.shiftKey && $("read-all")) $("read-all").click(); });
  show();
}

if ($("news")) watchNews();
