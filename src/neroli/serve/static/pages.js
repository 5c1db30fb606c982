/* What pages do beyond looking and deciding: all of it works without, see pages.py. */
"use strict";

const said = document.getElementById("said");

/* The page that the server answers with. Most of what it refuses comes as a page too. */
async function answer(address, options) {
  const response = await fetch(address, { credentials: "same-origin", ...options });
  const out = response.redirected && new URL(response.url).pathname === "/login";
  if (out || response.status === 401) location.assign("/login");
  if (!response.headers.get("content-type").startsWith("text/html")) throw new Error((await response.json()).error.message);
  return new DOMParser().parseFromString(await response.text(), "text/html");
}

function reason(error) {
  return error instanceof TypeError ? "The server did not answer. Is it still running?" : error.message;
}

/* Parts of the page there take the place of those with the same id here. */
function replaced(page, ids) {
  for (const id of ids) {
    const fresh = page.getElementById(id);
    const stale = document.getElementById(id);
    if (fresh && stale) stale.replaceWith(document.adoptNode(fresh));
  }
}

/* ---- Heat maps over the picture ---- */

function shown(viewer) {
  const slider = viewer.querySelector("input[type=range]");
  for (const map of viewer.querySelectorAll(".stack img:not(.picture)")) map.style.opacity = slider.value / 100;
  viewer.querySelector("output").value = `${slider.value}%`;
}

function readied(root) {
  for (const viewer of root.querySelectorAll(".viewer")) {
    viewer.querySelector(".blend").hidden = false;
    viewer.addEventListener("input", () => shown(viewer));
    shown(viewer);
  }
}

/* ---- An image dropped in ---- */

const drop = document.getElementById("drop");

/* The name of the file stays here: the server is sent the image as "image". */
async function scored(file) {
  const busy = document.getElementById("busy");
  const form = new FormData();
  form.append("token", drop.elements.token.value);
  form.append("image", file, "image");
  busy.textContent = drop.dataset.busy;
  drop.setAttribute("aria-busy", "true");
  try {
    replaced(await answer(drop.action, { method: "POST", body: form }), ["result"]);
    const result = document.getElementById("result");
    const called = result.querySelector("[data-called]");
    if (called) called.replaceChildren(Object.assign(document.createElement("bdi"), { textContent: file.name }));
    readied(result);
    result.focus({ preventScroll: true });
    result.scrollIntoView({ block: "start" });
    busy.textContent = "";
  } catch (error) {
    busy.textContent = reason(error);
  }
  drop.removeAttribute("aria-busy");
}

if (drop) {
  drop.addEventListener("submit", (event) => {
    event.preventDefault();
    scored(drop.elements.image.files[0]);
  });
  drop.elements.image.addEventListener("change", () => {
    if (drop.elements.image.files.length) scored(drop.elements.image.files[0]);
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) scored(event.dataTransfer.files[0]);
    });
  }
}

/* ---- The explanation of a record, fetched once the rest can be seen ---- */

async function explained(why) {
  const wait = why.querySelector("[data-wait]");
  const link = wait.firstElementChild;
  wait.replaceChildren(wait.dataset.wait);
  try {
    const page = await answer(why.dataset.explain);
    if (!page.getElementById("why")) throw new Error(page.querySelector("[role=alert]")?.textContent);
    replaced(page, ["lead", "why", "more"]);
    readied(document.getElementById("why"));
  } catch (error) {
    wait.replaceChildren(link, ` (${reason(error)})`);
  }
}

const why = document.querySelector("[data-explain]");
if (why && why.querySelector("[data-wait]")) explained(why);

/* ---- Decisions, without leaving the place in the page ---- */

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("[data-part]")) return;
  event.preventDefault();
  const body = new FormData(form, event.submitter);
  body.append("part", "1");
  const item = form.closest(".item");
  const focused = event.submitter && form.contains(document.activeElement);
  const { name, value } = event.submitter;
  try {
    const page = await answer(form.action, { method: "POST", body: new URLSearchParams(body) });
    const fresh = page.getElementById(form.id);
    if (!fresh) throw new Error(page.querySelector("[role=alert]")?.textContent);
    said.textContent = fresh.querySelector(".decided").textContent.trim();
    replaced(page, [form.id, "summary"]);
    if (item && focused) item.querySelector("a.open").focus();
    else if (focused) fresh.querySelector(`[name="${name}"][value="${value}"]`)?.focus();
  } catch (error) {
    said.textContent = `Not saved. ${reason(error)}`;
  }
});

/* ---- The queue by keyboard ---- */

const queue = document.getElementById("queue");
const shortcuts = document.getElementById("shortcuts");

function item() {
  return document.activeElement.closest(".item");
}

function moved(step) {
  const items = [...queue.children];
  const place = items.indexOf(item());
  const next = items[place < 0 ? 0 : Math.min(items.length - 1, Math.max(0, place + step))];
  next.querySelector("a.open").focus();
  next.scrollIntoView({ block: "nearest" });
}

function decided(value) {
  if (item()) item().querySelector(`.deciding [value="${value}"]`).click();
  else said.textContent = "Press j to go to an image first.";
}

const KEYS = {
  j: () => moved(1),
  k: () => moved(-1),
  o: () => decided("ood"),
  f: () => decided("fine"),
  n: () => item()?.querySelector("input[name=note]").select(),
};

if (queue) {
  shortcuts.checked = localStorage.getItem("shortcuts") !== "off";
  shortcuts.addEventListener("change", () => localStorage.setItem("shortcuts", shortcuts.checked ? "on" : "off"));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat && "of".includes(event.key)) return;
    const writing = event.target.matches("select, textarea, input:not([type=checkbox])");
    if (writing && event.key === "Escape") item()?.querySelector("a.open").focus();
    if (writing || !shortcuts.checked || !Object.hasOwn(KEYS, event.key)) return;
    event.preventDefault();
    KEYS[event.key]();
  });
}

for (const part of document.querySelectorAll("[data-script]")) part.hidden = false;
for (const part of document.querySelectorAll("[data-plain]")) part.hidden = true;
readied(document);
