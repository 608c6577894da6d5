// The service worker: it shows notifications, and without a network the last pages of the person who is signed in.
// The server writes FILES, the addresses of scripts and pictures, and VERSION before this text.
"use strict";

const FILE_CACHE = `files-${VERSION}`, PAGE_CACHE = "pages";
const PAGES_MAX = 30;             // the last ones that were open
const OFFLINE = "/offline", OWNER = "/owner";

self.addEventListener("install", event => event.waitUntil(install()));
async function install() {
  const cache = await caches.open(FILE_CACHE);
  await cache.addAll([...FILES, OFFLINE]);
  await self.skipWaiting();
}

self.addEventListener("activate", event => event.waitUntil(activate()));
async function activate() {
  for (const name of await caches.keys()) if (name !== FILE_CACHE && name !== PAGE_CACHE) await caches.delete(name);
  await self.clients.claim();
}

self.addEventListener("fetch", event => {
  const {request} = event, url = new URL(request.url);
  if (url.origin !== location.origin || url.pathname.includes("/file/")) return;      // each file is asked for anew
  if (request.mode === "navigate") event.respondWith(request.method === "GET" ? page(event) : form(request, url));
  else if (request.method === "GET" && url.pathname.startsWith("/static/")) event.respondWith(file(request));
});

async function file(request) { return await caches.match(request) ?? fetch(request); }

// Signing out drops the person's pages.
async function form(request, url) {
  if (url.pathname === "/auth/signout") await caches.delete(PAGE_CACHE);
  return fetch(request);
}

async function page(event) {
  try {
    const answer = await fetch(event.request);
    event.waitUntil(keep(event.request, answer.clone()));
    return answer;
  } catch { return await kept(event.request) ?? await caches.match(OFFLINE) ?? Response.error(); }
}

// Pages are one person's. A page of somebody else, or one that knows nobody, ends what was kept.
async function keep(request, answer) {
  if (answer.type === "opaqueredirect" || answer.status >= 500) return;
  const person = answer.headers.get("X-Person") ?? "";
  let cache = await caches.open(PAGE_CACHE);
  const owner = await (await cache.match(OWNER))?.text() ?? "";
  if (owner !== person) {
    await caches.delete(PAGE_CACHE);
    cache = await caches.open(PAGE_CACHE);
    await cache.put(OWNER, new Response(person));
  }
  if (!person || answer.status !== 200) return;
  const key = keyOf(request);
  await cache.delete(key);
  await cache.put(key, dated(await answer.text()));
  const pages = (await cache.keys()).filter(one => new URL(one.url).pathname !== OWNER);
  for (const one of pages.slice(0, -PAGES_MAX)) await cache.delete(one);
}

// A channel's address has other views in its query; of its messages one page is kept, wherever that begins.
function keyOf(request) {
  const {pathname, search, searchParams} = new URL(request.url);
  return pathname + (searchParams.has("thread") || searchParams.has("people") ? search : "");
}

const dated = html => new Response(html, {headers: {"Content-Type": "text/html; charset=utf-8",
                                                    "X-Kept-At": new Date().toISOString()}});

async function kept(request) {
  const cache = await caches.open(PAGE_CACHE), found = await cache.match(keyOf(request));
  if (!found) return null;
  const at = new Date(found.headers.get("X-Kept-At")).toLocaleString();
  const words = `You are offline. This page is as it was at ${at}.`;
  const html = (await found.text()).replace(/(id="connection"[^>]*?) hidden>/, (_, head) => `${head}>${words}`);
  return new Response(html, {headers: {"Content-Type": "text/html; charset=utf-8"}});
}

// ── Notifications ────────────────────────────────────────────────────────────────────────────────────────────

// One a message: its id is the tag. A person who is looking at the chat needs none.
self.addEventListener("push", event => event.waitUntil(tell(event.data?.json() ?? {})));
async function tell({title, body, tag, path}) {
  const windows = await self.clients.matchAll({type: "window"});
  if (!title || windows.some(one => one.visibilityState === "visible")) return;
  const icon = FILES.find(one => one.includes("icon-192"));
  await self.registration.showNotification(title, {body, tag, icon, badge: icon, data: {path}});
}

self.addEventListener("notificationclick", event => {
  event.notification.close();
  event.waitUntil(open(event.notification.data.path));
});
async function open(path) {
  const [one] = await self.clients.matchAll({type: "window"});
  if (!one) return self.clients.openWindow(path);
  await one.focus();
  return one.navigate(path);
}
