// Files: attached by button, drop or paste, uploaded one after the other, and named by the message that is sent. The
// pictures in messages open large.
"use strict";

const SMALL_PX = 88;              // of a picture beside the box, drawn from the file itself
const SWIPE_PX = 50;              // a finger that goes so far sideways wants the next picture

// ── Beside the box ───────────────────────────────────────────────────────────────────────────────────────────

// The files that are attached to what is being written. One is {id, name, state, sent, why, blob} and, once it is
// uploaded, what the server says of it. Its state is "waiting", "sending", "done" or "failed". Those that are uploaded
// outlive a reload, with the draft. A message that is sent too early goes when its files are there.
class Attachments {
  #files = [];
  #isSendWanted = false;

  constructor(form) {
    const button = $("attach");
    Object.assign(this, {form, list: $("attachments"), box: $("text"), path: form.getAttribute("action"),
                         bytesMax: button.dataset.mb * 2 ** 20, countMax: Number(button.dataset.count)});
    this.token = form.querySelector("[name='__anti-forgery-token']").value;
    button.addEventListener("click", () => $("attached").click());
    $("attached").addEventListener("change", event => { this.add([...event.target.files]); event.target.value = ""; });
    this.box.addEventListener("paste", event => this.#paste(event));
    this.#takeDrops();
    this.#files = JSON.parse(sessionStorage.getItem(this.#key()) ?? "[]").map(file => ({...file, state: "done"}));
    this.#changed();
  }
  add(blobs) {
    const room = this.countMax - this.#files.length;
    for (const blob of blobs.slice(0, room)) this.#files.push(this.#made(blob));
    this.#say(blobs.length > room ? `A message has at most ${this.countMax} files: the others were left out.` : "");
    this.#changed();
    this.#work();
    this.box.focus();
  }
  // True if the message has to wait; it is sent by itself when nothing is under way any more.
  isWaiting() {
    if (this.#files.some(file => file.state === "failed")) {
      this.#say("A file was not uploaded. Try it again or remove it, then send.");
      return true;
    }
    this.#isSendWanted = this.#files.some(file => file.state !== "done");
    this.#changed();
    return this.#isSendWanted;
  }
  take() {
    if (!this.#files.length) return null;
    const files = this.#files.map(({id, name, size, kind, width, height}) => ({id, name, size, kind, width, height}));
    this.#files = [];
    this.#say("");
    this.#changed();
    return files;
  }

  #key() { return `files ${this.path}`; }
  #made(blob) {
    const file = {id: newId(), name: blob.name || "file", state: "waiting", sent: 0, why: "", blob};
    const isTooLarge = blob.size > this.bytesMax, mb = this.bytesMax / 2 ** 20;
    if (isTooLarge)
      Object.assign(file, {state: "failed", isFinal: true, why: `More than ${mb} MB, which is the most.`});
    return file;
  }
  #paste(event) {
    const {files} = event.clipboardData;
    if (!files.length || event.clipboardData.getData("text/plain")) return;
    event.preventDefault();
    this.add([...files]);
  }
  #takeDrops() {
    const place = $("main"), hasFiles = event => [...event.dataTransfer?.types ?? []].includes("Files");
    const leave = () => place.classList.remove("dropping");
    document.addEventListener("dragover", event => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      place.classList.add("dropping");
    });
    document.addEventListener("dragleave", event => { if (!event.relatedTarget) leave(); });
    document.addEventListener("drop", event => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      leave();
      const isFolder = item => item.webkitGetAsEntry?.()?.isDirectory;
      const items = [...event.dataTransfer.items].filter(item => item.kind === "file");
      this.add(items.filter(item => !isFolder(item)).map(item => item.getAsFile()).filter(Boolean));
      if (items.some(isFolder)) this.#say("A folder cannot be sent. Attach the files in it.");
    });
  }
  async #work() {
    if (this.#files.some(file => file.state === "sending")) return;
    const file = this.#files.find(one => one.state === "waiting");
    if (file) {
      await this.#upload(file);
      this.#changed();
      return this.#work();
    }
    if (!this.#isSendWanted) return;
    this.#isSendWanted = false;
    if (this.#files.every(one => one.state === "done")) this.form.requestSubmit();
    this.#changed();
  }
  // Resolves when the file is uploaded, or is not. Only this kind of request tells how far it has come.
  #upload(file) {
    const request = file.request = new XMLHttpRequest();
    Object.assign(file, {state: "sending", sent: 0, why: ""});
    this.#changed();
    request.open("POST", `${this.path}/file/${file.id}?name=${encodeURIComponent(file.name)}`);
    request.setRequestHeader("X-CSRF-Token", this.token);
    request.setRequestHeader("HX-Request", "true");
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.addEventListener("progress", event => {
      file.sent = event.loaded / event.total;
      this.#tell(file);
    });
    const ended = new Promise(resolve => request.addEventListener("loadend", resolve));
    request.send(file.blob);
    return ended.then(() => this.#note(file, request));
  }
  #note(file, request) {
    delete file.request;
    if (request.status === 200) return Object.assign(file, JSON.parse(request.responseText), {state: "done"});
    const why = request.status === 204 ? CLOSED : request.status === 0 ? UNREACHED
      : isSentence(request.responseText) ? request.responseText : "The server cannot take it now.";
    Object.assign(file, {state: "failed", why, id: request.status === 409 ? newId() : file.id,
                         isFinal: [413, 422].includes(request.status)});
    this.#isSendWanted = false;
  }
  #retry(file) {
    file.state = "waiting";
    this.#say("");
    this.#changed();
    this.#work();
  }
  #remove(file) {
    this.#files = this.#files.filter(one => one !== file);
    file.request?.abort();
    if (file.state === "done") ask("DELETE", `${this.path}/file/${file.id}`);
    this.#say("");
    this.#changed();
    this.#work();
    this.box.focus();
  }
  #changed() {
    const done = this.#files.filter(file => file.state === "done").map(({blob, request, item, ...known}) => known);
    try {
      if (done.length) sessionStorage.setItem(this.#key(), JSON.stringify(done));
      else sessionStorage.removeItem(this.#key());
    } catch { /* the page itself still has them */ }
    this.box.required = !this.#files.length;
    this.list.hidden = !this.#files.length;
    for (const item of [...this.list.children]) if (!this.#files.some(file => file.item === item)) item.remove();
    for (const file of this.#files) this.#tell(file);
    if (this.#isSendWanted) this.#say("The message goes as soon as its files are there.");
    else if ($("attach-note").dataset.of === "wait") this.#say("");
  }
  #tell(file) {
    if (!file.item) this.list.append(file.item = this.#drawn(file));
    const {item, state} = file, progress = item.querySelector("progress");
    item.className = state;
    item.querySelector("bdi").textContent = file.name;
    item.querySelector(".why").textContent = state === "failed" ? file.why : state === "done" ? file.size : "";
    item.querySelector(".again").hidden = state !== "failed" || file.isFinal;
    progress.hidden = state === "done" || state === "failed";
    if (file.sent < 1) progress.value = file.sent; else progress.removeAttribute("value");      // the server is at it
  }
  #drawn(file) {
    const name = element("bdi", {"hx-ignore": ""}, file.name);
    const again = element("button", {type: "button", class: "link again"}, "Retry");
    const label = `Remove ${file.name}`;
    const remove = element("button", {type: "button", class: "icon", "aria-label": label, title: "Remove"}, "×");
    again.addEventListener("click", () => this.#retry(file));
    remove.addEventListener("click", () => this.#remove(file));
    const progress = element("progress", {max: "1", value: "0", "aria-label": `Uploading ${file.name}`});
    const why = element("span", {class: "why small"});
    const what = element("span", {class: "what"}, name, progress, why, again);
    return element("li", {}, this.#picture(file), what, remove);
  }
  // A small picture of the file as it lies on this machine, before anything is sent; a sheet of paper for any other.
  #picture(file) {
    if (file.kind === "picture" && !file.blob)
      return element("img", {src: `${this.path}/file/${file.id}/small`, alt: "", width: SMALL_PX / 2,
                             height: SMALL_PX / 2});
    const canvas = element("canvas", {width: SMALL_PX, height: SMALL_PX, class: "paper", "aria-hidden": "true"});
    if (file.blob?.type.startsWith("image/")) drawSmall(canvas, file.blob);
    return canvas;
  }
  // In #attach-note, which is read aloud.
  #say(text) {
    const note = $("attach-note");
    note.textContent = text;
    note.hidden = !text;
    note.dataset.of = this.#isSendWanted ? "wait" : "";
  }
}

async function drawSmall(canvas, blob) {
  try {
    const picture = await createImageBitmap(blob), side = Math.min(picture.width, picture.height);
    const left = (picture.width - side) / 2, top = (picture.height - side) / 2;
    canvas.getContext("2d").drawImage(picture, left, top, side, side, 0, 0, SMALL_PX, SMALL_PX);
    canvas.classList.remove("paper");
    picture.close();
  } catch { /* it is no picture that this browser knows */ }
}

// The files of a message on its way, as its template will draw them.
function shownFiles(files, path) {
  const areMany = files.filter(file => file.kind === "picture").length > 1;
  const list = element("ul", {class: areMany ? "files many" : "files"});
  for (const {id, name, size, kind, width, height} of files) {
    if (kind === "picture") {
      const picture = element("img", {src: `${path}/file/${id}/small`, width, height, alt: name});
      const link = element("a", {href: `${path}/file/${id}`, "data-picture": ""}, picture);
      list.append(element("li", {class: "picture"}, link));
    } else {
      const shown = [element("bdi", {}, name), " ", element("span", {class: "small"}, size)];
      const link = element("a", {class: "download", href: `${path}/file/${id}`, download: ""}, ...shown);
      list.append(element("li", {class: "other"}, link));
    }
  }
  return list;
}

// ── Pictures, large ──────────────────────────────────────────────────────────────────────────────────────────

// A picture opens over the page. Arrows, and a finger that swipes, go to the others of the page; Escape, Back and a
// click beside it close it.
function openLightbox(list, dialog) {
  const picture = $("lightbox-picture"), steps = [...dialog.querySelectorAll("[data-step]")];
  let at = null, begun = null;
  const all = () => [...list.querySelectorAll(".message:not(.pending) a[data-picture]")];
  function show(link) {
    const links = all(), place = links.indexOf(link), small = link.querySelector("img");
    at = link;
    picture.removeAttribute("src");                            // the one before is not shown under this one's name
    picture.width = link.dataset.width;
    picture.height = link.dataset.height;
    picture.src = link.href;
    picture.alt = $("lightbox-name").textContent = small.alt;
    $("lightbox-place").textContent = links.length > 1 ? `${place + 1} of ${links.length}` : "";
    $("lightbox-save").href = `${link.href}?save`;
    for (const button of steps) button.disabled = !links[place + Number(button.dataset.step)];
  }
  function step(by) {
    const links = all(), next = links[links.indexOf(at) + by];
    if (next) show(next);
  }
  dialog.addEventListener("close", () => {
    if (history.state?.lightbox) history.back();
    picture.removeAttribute("src");
    (at?.isConnected ? at : list).focus({preventScroll: true});
    at = null;
  });
  addEventListener("popstate", () => { if (dialog.open && !history.state?.lightbox) dialog.close(); });
  dialog.addEventListener("keydown", event => {
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (by) { event.preventDefault(); step(by); }
  });
  dialog.addEventListener("click", event => {
    const button = event.target.closest("[data-step]");
    if (button) step(Number(button.dataset.step));
  });
  dialog.addEventListener("pointerdown", event => { begun = event.pointerType === "mouse" ? null : event.clientX; });
  dialog.addEventListener("pointerup", event => {
    const by = begun === null ? 0 : event.clientX - begun;
    if (Math.abs(by) > SWIPE_PX) step(by > 0 ? -1 : 1);
    begun = null;
  });
  new MutationObserver(() => {                                 // its message was deleted, or drawn anew
    if (!dialog.open || at?.isConnected) return;
    const same = all().find(link => link.href === at?.href);
    if (same) show(same); else dialog.close();
  }).observe(list, {childList: true, subtree: true});
  return link => {
    show(link);
    dialog.showModal();
    history.pushState({lightbox: true}, "");
  };
}

if ($("attach")) {
  const attachments = new Attachments($("compose"));
  riders.push({name: "files", isWaiting: () => attachments.isWaiting(), take: () => attachments.take(),
               fields: files => ({files: files.map(file => file.id).join(" ")}), shown: shownFiles});
}
if ($("messages")) {
  const list = $("messages"), open = dialogs.act("lightbox", dialog => openLightbox(list, dialog));
  list.addEventListener("click", event => {
    const link = event.target.closest("a[data-picture]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    if (!link.closest(".pending")) open(link);
  });
}
