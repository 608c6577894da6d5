// Notifications: this browser asks its push service for an address and leaves it with the server.
"use strict";

// Keys are written in base64 as it stands in addresses.
function keyBytes(text) {
  return Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), one => one.charCodeAt(0));
}
function keyText(buffer) {
  const text = btoa(String.fromCharCode(...new Uint8Array(buffer)));
  return text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

// A browser whose push service cannot be reached is told by its open pages. Its owner has clicked for that, too.
const HERE_KEY = "told-here", isToldHere = () => localStorage[HERE_KEY] === "1" && Notification.permission === "granted";

class Push {
  #subscription = null;

  constructor(section, registration) {
    Object.assign(this, {section, registration, button: section.querySelector("[data-push]"),
                         state: section.querySelector("[data-push-state]")});
    this.button.addEventListener("click", () => this.#isOn() ? this.#turnOff() : this.#turnOn());
    this.#look();
  }
  async #look() {
    this.#subscription = await this.registration.pushManager.getSubscription();
    this.button.hidden = false;
    this.button.textContent = this.#isOn() ? "Turn off in this browser" : "Turn on in this browser";
    const here = "This browser is told while the chat is open in it: its push service cannot be used.";
    this.#say(this.#subscription ? "This browser is told." : isToldHere() ? here : "");
  }
  #isOn() { return Boolean(this.#subscription) || isToldHere(); }
  #say(words) { this.state.textContent = words; }
  async #turnOn() {
    if (await Notification.requestPermission() !== "granted")
      return this.#say("Your browser does not allow it. Its settings for this site can.");
    const options = {userVisibleOnly: true, applicationServerKey: keyBytes(this.section.dataset.key)};
    try {
      const made = await this.registration.pushManager.subscribe(options);
      const keys = {p256dh: keyText(made.getKey("p256dh")), auth: keyText(made.getKey("auth"))};
      const why = await ask("POST", "/push", {endpoint: made.endpoint, ...keys});
      if (why) { await made.unsubscribe(); throw new Error(why); }
      delete localStorage[HERE_KEY];
    } catch { localStorage[HERE_KEY] = "1"; }
    await this.#look();
  }
  async #turnOff() {
    delete localStorage[HERE_KEY];
    if (this.#subscription) {
      const {endpoint} = this.#subscription;
      await this.#subscription.unsubscribe();
      await ask("POST", "/push/off", {endpoint});
    }
    await this.#look();
  }
}

// ── Told by an open page ─────────────────────────────────────────────────────────────────────────────────────

const IN_SIGHT = "in sight";       // a lock that each page holds while it is visible, in whatever tab

function holdSight() {
  let release = null;
  const look = () => {
    if (document.visibilityState !== "visible") { release?.(); release = null; }
    else if (!release) navigator.locks.request(IN_SIGHT, {mode: "shared"}, () => new Promise(end => { release = end; }));
  };
  document.addEventListener("visibilitychange", look);
  look();
}

function isQuietNow() {
  const {from, to} = $("alerts").dataset, now = new Date().toTimeString().slice(0, 5);
  return Boolean(from && to) && (from <= to ? from <= now && now < to : now >= from || now < to);
}

// What the notification of a new message says, or null if it does not concern the reader. `item` is its line in #news.
function noticeOf(item) {
  const {channel, mem, for: called = ""} = item.dataset, id = item.id.slice("new-".length), mine = $("news").dataset.mem;
  const level = $("alerts").dataset.levels.match(`${channel}:(\\w+)`)?.[1];
  const link = document.querySelector(`.side-lists a[href$="${channel}"]`), isDirect = link?.closest("#directs");
  const isCalled = called.split(" ").some(one => one === mine || one === channel);
  const isMuted = document.querySelector(`#news [data-muted][data-channel="${channel}"]`);
  if (!link || mem === mine || isMuted || level === "none" || !(isCalled || isDirect || level === "all")) return null;
  const message = $(`message-${id}`), author = message?.querySelector("header b").textContent;
  const where = (link.querySelector("span") ?? link).textContent, title = isDirect ? where : `#${where}`;
  const body = message ? textOf(message).textContent.slice(0, 200) : isCalled ? "You are mentioned" : "A new message";
  return {title: author && !isDirect ? `${author} in ${title}` : title, body, tag: id, path: `${link.pathname}/at/${id}`};
}

// One a message, whatever the number of tabs: its id is the tag. Nobody is told who has a page in sight.
function tellHere(registration) {
  const seen = new Set(), icon = document.querySelector("link[rel=apple-touch-icon]").href;
  holdSight();
  document.addEventListener("htmx:after:swap", async () => {
    const items = [...document.querySelectorAll("#news > [id^='new-']")].filter(one => !seen.has(one.id));
    for (const one of items) seen.add(one.id);
    if (!items.length || !isToldHere() || document.visibilityState === "visible" || isQuietNow()) return;
    if ((await navigator.locks.query()).held.some(one => one.name === IN_SIGHT)) return;
    if (await registration.pushManager?.getSubscription()) return;
    for (const {title, path, ...options} of items.map(noticeOf).filter(Boolean)) {
      const shown = await registration.getNotifications({tag: options.tag});
      if (!shown.length) await registration.showNotification(title, {...options, icon, data: {path}});
    }
  });
}

dialogs.whenThere(root => {
  for (const zone of root.querySelectorAll("[name=zone]"))           // of quiet hours, and of the days of a search
    zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone ?? "UTC";
});

// What the dialogs have chosen counts in this page, too.
document.addEventListener("submit", ({target: form}) => {
  if (!$("alerts")) return;
  const {dataset} = $("alerts"), fields = form.elements, channel = location.pathname.split("/channel/")[1]?.split("/")[0];
  if (form.closest("#alert"))
    dataset.levels = `${dataset.levels.replace(new RegExp(`${channel}:\\w+ ?`), "")} ${channel}:${fields.level.value}`;
  if (form.getAttribute("action") === "/quiet") Object.assign(dataset, {from: fields.from.value, to: fields.to.value});
});

// The service worker shows notifications, and the last pages without a network.
async function startWorker() {
  if (!("serviceWorker" in navigator)) return;
  const registration = await navigator.serviceWorker.register("/sw.js").catch(() => null);
  if (!registration) return;
  const isAble = "PushManager" in window && "Notification" in window, ready = await navigator.serviceWorker.ready;
  dialogs.whenThere(root => {
    for (const section of root.querySelectorAll(".push"))
      if (isAble) new Push(section, ready);
      else section.querySelector("[data-push-state]").textContent =
        "This browser can tell you once the chat is on your home screen.";
  });
  if (isAble && $("alerts") && navigator.locks) tellHere(ready);
}
startWorker();
