// The page: it opens what the other files hold. `line.js` watches the connection, `outbox.js` sends what is written,
// `compose.js` shows that, `list.js` is about reading, `dialogs.js` about dialogs. The server does the rest.
"use strict";

const NARROW_PX = 720;            // below it the list of channels is a drawer, as in the style sheet
const SIBLING_MS = 15_000;        // so long after another tab signed out, the end of the session is its doing
const RELOADED_MS = 60_000;       // a page that was reloaded for its rights is not reloaded again so soon

// ── The drawer ───────────────────────────────────────────────────────────────────────────────────────────────

// Open, it has the focus and the page behind it is inert; Escape, Back, a click beside it and a wider window close it.
function openDrawer() {
  const button = document.querySelector(".menu"), side = $("side"), narrow = matchMedia(`(max-width: ${NARROW_PX}px)`);
  if (!button) return;
  const isOpen = () => document.body.classList.contains("drawer");
  const set = open => {
    document.body.classList.toggle("drawer", open);
    button.setAttribute("aria-expanded", open);
    for (const one of [$("main"), ...button.parentElement.children]) if (one !== button) one.inert = open;
  };
  function open() {
    set(true);
    history.pushState({drawer: true}, "");
    [...side.querySelectorAll("a, summary, button")].find(one => one.checkVisibility()).focus();
  }
  function close() {
    if (!isOpen()) return;
    set(false);
    if (history.state?.drawer) history.back();
    button.focus();
  }
  button.addEventListener("click", () => isOpen() ? close() : open());
  const isInDialog = event => event.target.closest?.("dialog") || document.querySelector("dialog[open]");
  document.addEventListener("keydown", event => { if (event.key === "Escape" && !isInDialog(event)) close(); });
  document.addEventListener("click", event => {
    if (!side.contains(event.target) && !button.contains(event.target) && !isInDialog(event)) close();
  });
  addEventListener("popstate", () => { if (isOpen()) { set(false); button.focus(); } });
  narrow.addEventListener("change", () => { if (!narrow.matches) close(); });
}

// ── People and tabs ──────────────────────────────────────────────────────────────────────────────────────────

// The tabs of one browser. One that signs out says so: the others then know why their session ended. One in which
// another person is signed in says that, too: the others show nothing any more of the person before.
class Siblings {
  #channel = new BroadcastChannel("eelchat");
  #signedOutAt = 0;

  constructor(person) {
    this.#channel.onmessage = event => {
      if (event.data === "signing out") this.#signedOutAt = Date.now();
      else if (person && event.data !== person) { kept.clear(); location.reload(); }
    };
    if (person) this.#channel.postMessage(person);
    document.querySelector("form.out")?.addEventListener("submit", () => {
      kept.clear();
      this.#channel.postMessage("signing out");
    });
  }
  haveSignedOut() { return Date.now() - this.#signedOutAt < SIBLING_MS; }
}

const signInPath = error => `/signin?${new URLSearchParams({error, "return-to": location.pathname + location.search})}`;

// To the sign-in page, from which one comes back here, or to fresh rights for this page. False if that did not help.
function reloadForRights() {
  if (Date.now() - Number(sessionStorage.reloadedAt ?? 0) < RELOADED_MS) return false;
  sessionStorage.reloadedAt = Date.now();
  kept.leave(() => location.reload());
  location.reload();
  return true;
}

// The text that is written here waits for the same person to sign in, in any tab; then this page comes back.
function endSession(bySibling) {
  kept.leave(() => location.reload());
  if ($("text")) kept.keepDraft(HERE, $("text").value);      // the tab that signed out has removed it
  if (bySibling) return location.replace(signInPath("signed-out"));
  $("connection").append(" ", element("a", {href: signInPath("not-signed-in")}, "Sign in again"));
}

// The text that was written in a channel that is gone is shown once more, until its author has taken it elsewhere.
function showOrphans(outbox) {
  const community = location.pathname.split("/channel/")[0];
  if (!$("channels")) return;
  const links = [...document.querySelectorAll(".side-lists a")];
  const there = new Set([HERE, ...links.map(link => link.pathname)]);
  for (const [path, texts] of writings())
    if (path.startsWith(`${community}/channel/`) && !there.has(path)) $("main").prepend(orphan(path, texts, outbox));
}

// All that was written and not sent, by path: what failed, then the draft.
function writings() {
  const failed = kept.posts().filter(post => post.state === "failed").map(post => [post.path, post.text]);
  const written = new Map();
  for (const [path, text] of [...failed, ...kept.drafts()]) written.set(path, [...written.get(path) ?? [], text]);
  return written;
}

function orphan(path, texts, outbox) {
  const box = element("textarea", {readonly: "", rows: 3, "aria-label": "What you wrote"}, texts.join("\n\n"));
  const button = element("button", {type: "button", class: "soft"}, "Delete");
  const words = "A channel in which you were writing is gone. This is what you wrote:";
  const card = element("section", {class: "orphan"}, words, box, button);
  button.addEventListener("click", () => {
    kept.keepDraft(path, "");
    outbox.dropAllOf(path);
    card.remove();
  });
  return card;
}

// ── The page ─────────────────────────────────────────────────────────────────────────────────────────────────

// A community's own page shows its channels in the pane, too. They come once and are copied.
function fillPick() {
  $("pick-channels")?.replaceChildren(...[...$("channels").children].map(one => one.cloneNode(true)));
}

function openPage() {
  const shell = $("shell"), person = shell?.dataset.person ?? "";
  kept.open(person);
  tellTimes(document);
  openDrawer();
  const siblings = new Siblings(person);
  if (!shell) return;
  const place = document.querySelector("[hx-ws\\:connect]"), list = $("messages");
  const token = document.querySelector("[name='__anti-forgery-token']").value;
  const show = () => { pending?.show(); markUnsent(outbox); };
  const told = {shown: show, stored: post => isStored(post), signedOut: reloadForRights};
  const outbox = new Outbox(token, told), pending = list && new Pending(list, outbox);
  const line = place && new Line(place, what => {
    if (what === "reached") outbox.reached();
    if (what === "session over") endSession(siblings.haveSignedOut());
  });
  function isStored(post) {
    if (post.path !== HERE) return;
    if (list && place !== list) location.assign(`${HERE}?now`);      // a page of older messages; this is a new one
    else if (line) line.expect(() => !outbox.of(post.path).includes(post));
  }
  if (list) openList(list, outbox, pending);
  const listed = new MutationObserver(() => { fillPick(); markUnsent(outbox); });
  if ($("channels")) listed.observe($("channels"), {childList: true});
  fillPick();
  markUnsent(outbox);
  showOrphans(outbox);
  outbox.work();
}

function openList(list, outbox, pending) {
  addOnce(outbox);
  new List(list, () => pending.show());
  keepFocusInOlder(list);
  copyMessages(list);
  new Box($("compose"), outbox);
}

// A page that comes back from the browser's memory has a socket that was closed for good.
addEventListener("pageshow", event => { if (event.persisted) location.reload(); });

openPage();
