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

class Push {
  #subscription = null;

  constructor(section, registration) {
    Object.assign(this, {section, registration, button: section.querySelector("[data-push]"),
                         state: section.querySelector("[data-push-state]")});
    this.button.addEventListener("click", () => this.#subscription ? this.#turnOff() : this.#turnOn());
    this.#look();
  }
  async #look() {
    this.#subscription = await this.registration.pushManager.getSubscription();
    this.button.hidden = false;
    this.button.textContent = this.#subscription ? "Turn off in this browser" : "Turn on in this browser";
    this.#say(this.#subscription ? "This browser is told." : "");
  }
  #say(words) { this.state.textContent = words; }
  async #turnOn() {
    if (await Notification.requestPermission() !== "granted")
      return this.#say("Your browser does not allow it. Its settings for this site can.");
    const options = {userVisibleOnly: true, applicationServerKey: keyBytes(this.section.dataset.key)};
    try {
      const made = await this.registration.pushManager.subscribe(options);
      const keys = {p256dh: keyText(made.getKey("p256dh")), auth: keyText(made.getKey("auth"))};
      const why = await ask("POST", "/push", {endpoint: made.endpoint, ...keys});
      if (why) { await made.unsubscribe(); return this.#say(why); }
    } catch { return this.#say("Your browser's push service cannot be reached. Try again later."); }
    await this.#look();
  }
  async #turnOff() {
    const {endpoint} = this.#subscription;
    await this.#subscription.unsubscribe();
    await ask("POST", "/push/off", {endpoint});
    await this.#look();
  }
}

for (const zone of document.querySelectorAll("form[action='/quiet'] [name=zone]"))
  zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone ?? "UTC";

// The service worker shows notifications, and the last pages without a network.
async function startWorker() {
  if (!("serviceWorker" in navigator)) return;
  const registration = await navigator.serviceWorker.register("/sw.js").catch(() => null);
  if (!registration) return;
  const sections = document.querySelectorAll(".push");
  if (!("PushManager" in window) || !("Notification" in window)) {
    for (const one of sections) one.querySelector("[data-push-state]").textContent =
      "This browser can tell you once the chat is on your home screen.";
    return;
  }
  for (const section of sections) new Push(section, await navigator.serviceWorker.ready);
}
startWorker();
