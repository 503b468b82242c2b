// The desk's pages: keys, the queue that shows the next item at once, verdicts, and parts that keep themselves live.
"use strict";

const csrf = document.body.dataset.csrf;
const ALIVE_MS = 60000; // a lease that ends sooner is renewed
const LOOK_MS = 5000; // how often an empty queue looks for what has come back: a lease that ends tells nobody
const TRIES = 5;
const find = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function say(text, isWrong = false) {
  const said = find("#said");
  said.textContent = text;
  said.classList.toggle("wrong", isWrong);
}

function newId() { // crypto.randomUUID is there over HTTPS and on this machine alone
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

// A part of a page, or nothing while the desk does not answer: what changed is told again when it does.
async function get(path) {
  try {
    const answer = await fetch(path);
    return answer.ok ? await answer.text() : null;
  } catch {
    return null;
  }
}

async function send(path, body) {
  const headers = { "content-type": "application/json", "x-csrf": csrf };
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  const told = await answer.json();
  if (!answer.ok) {
    const isRefused = answer.status < 500 && answer.status !== 429; // too often: it may be sent later
    throw Object.assign(new Error(told.detail), { isRefused });
  }
  return told;
}

// What was not kept; what is gone is nothing to answer any more.
function kept(told) {
  if (!told.saved) throw Object.assign(new Error(told.detail), { isGone: told.gone });
  return told;
}

// What is done one after the other: an undo waits for the verdict that it takes back.
let before = Promise.resolve();
function inOrder(work) {
  const done = before.then(work);
  before = done.catch(() => {});
  return done;
}

// A verdict keeps its id while it is sent again, so that it counts once.
async function sendAgain(path, body) {
  for (let tried = 1; ; tried += 1) {
    try {
      return await send(path, body);
    } catch (error) {
      if (error.isRefused || tried === TRIES) throw error;
      say("The desk does not answer; trying again…", true);
      await pause(300 * 2 ** tried);
    }
  }
}

async function give(verdicts) {
  const given = verdicts.map((verdict) => ({ feedback_id: newId(), ...verdict }));
  return (await sendAgain("/verdicts", { verdicts: given })).told;
}

// The queue ---------------------------------------------------------------------------------------------------------

const queue = find("#queue");
const answered = new Set(); // leases of items that left the screen
let last = find("[data-undo]")?.dataset.undo; // the verdict that an undo takes back
let comment = "";

const items = () => (queue ? all(".item", queue) : []);

function show() {
  const [first, ...others] = items();
  if (first) first.hidden = false;
  others.forEach((other) => { other.hidden = true; });
  find("#empty").hidden = Boolean(first);
  find("#verdicts").hidden = !first;
  keepComment("");
}

function keepComment(text) {
  comment = text;
  find("#comment-shown").textContent = text ? `With your verdict: “${text}”` : "";
}

let filling = false;
let filled = Date.now();
async function fill(event = "") {
  if (filling && !event) return;
  filling = true;
  try {
    const html = await get(`${queue.dataset.url}?event=${encodeURIComponent(event)}`);
    filled = Date.now();
    if (html === null) return;
    const came = document.createElement("template");
    came.innerHTML = html;
    for (const item of all(".item", came.content)) {
      const here = items().find((other) => other.dataset.lease === item.dataset.lease);
      if (here) {
        for (const shown of [here, find(".left", here)]) shown.dataset.until = item.dataset.until;
      } else if (!answered.has(item.dataset.lease)) {
        item.hidden = true;
        if (event) queue.prepend(item); else queue.append(item);
      }
      find("#waiting").textContent = `${Number(item.dataset.waiting).toLocaleString("en")} waiting`;
    }
    const said = comment;
    show();
    keepComment(said);
    if (!items().length) find("#waiting").textContent = "";
  } finally {
    filling = false;
  }
}

// Shows the next item at once; the one before comes back if its verdict could not be kept.
async function leave(work) {
  const [item] = items();
  if (!item) return;
  const said = comment;
  answered.add(item.dataset.lease);
  item.remove();
  show();
  try {
    say(await inOrder(() => work(item, said)));
  } catch (error) {
    say(error.message, true);
    if (!error.isGone) {
      answered.delete(item.dataset.lease);
      queue.prepend(item);
      show();
      keepComment(said);
      return;
    }
  }
  await fill();
}

function answer(kind, label) {
  const work = async (item, said) => {
    const { event, lease, seen } = item.dataset;
    const body = { event_id: event, kind, lease, comment: said || null, ...labelled(kind, label, seen) };
    const [told] = await give([body]);
    last = kept(told).feedback_id;
    return `Saved: ${event}, ${kind}`;
  };
  if (kind === "accept" && items()[0]?.dataset.seen === undefined) {
    say("The model gave no answer that could be accepted.", true);
    return undefined;
  }
  return leave(work);
}

function labelled(kind, label, seen) {
  if (kind === "accept") return { label: JSON.parse(seen) };
  return label === undefined ? {} : label;
}

async function undo() {
  try {
    const taken = await inOrder(async () => {
      if (!last) throw new Error("There is nothing to take back.");
      const told = await sendAgain("/undo", { feedback_id: last });
      last = told.last;
      return told.event_id;
    });
    say(`Taken back: ${taken}`);
    await fill(taken);
  } catch (error) {
    say(error.message, true);
  }
}

function redo(path, place) {
  send(path, { place }).then(({ said }) => say(said), (error) => say(error.message, true));
}

function postpone(seconds) {
  return leave(async (item) => {
    kept(await send("/postpone", { lease: item.dataset.lease, seconds }));
    return `Postponed: ${item.dataset.event}`;
  });
}

function open(name) {
  const dialog = find(`#${name}`);
  const field = find("[name=value]", dialog);
  if (field) field.value = name === "comment" ? comment : "";
  dialog.showModal();
  dialog.onclose = () => {
    if (dialog.returnValue !== "ok") return;
    if (name === "comment") keepComment(field.value.trim());
    if (name === "correct" && field.value.trim()) answer("correct", { typed: field.value.trim() });
  };
  dialog.returnValue = "";
}

function tick() {
  for (const left of all(".item:not([hidden]) .left")) {
    const ms = Number(left.dataset.until) - Date.now();
    left.textContent = ms > 0 ? `${Math.floor(ms / 60000)} min ${Math.floor((ms % 60000) / 1000)} s` : "it may be another's now";
    if (ms < ALIVE_MS && !document.hidden) fill();
  }
  if (items().length < 2 && Date.now() - filled > LOOK_MS && !document.hidden) fill();
}

// Browse: several at once ---------------------------------------------------------------------------------------------

const checked = () => all(".lane input:checked");

function countSelected() {
  const count = checked().length;
  if (!find("#bulk")) return;
  find("#selected").textContent = count ? `${count} selected` : "None selected";
  all("#bulk button").forEach((button) => { button.disabled = count === 0; });
}

// Gives a verdict on several; those on which it could not be given.
async function sayOf(events, kind, label) {
  const wanted = events.filter(({ seen }) => kind !== "accept" || seen !== undefined);
  try {
    const told = await give(wanted.map(({ id, seen }) => ({ event_id: id, kind, ...labelled(kind, label, seen) })));
    const refused = told.filter((each) => !each.saved);
    const saved = `${told.length - refused.length} saved`;
    say(refused.length ? `${saved}, ${refused.length} refused: ${refused[0].detail}` : saved, refused.length > 0);
    return wanted.filter((_, index) => !told[index].saved);
  } catch (error) {
    say(error.message, true);
    return wanted;
  }
}

async function bulk(kind, label) {
  const events = checked().map((box) => ({ id: box.value, seen: box.dataset.seen }));
  checked().forEach((box) => { box.checked = false; });
  countSelected();
  const left = new Set((await sayOf(events, kind, label)).map(({ id }) => id));
  all(".lane input").forEach((box) => { box.checked ||= left.has(box.value); });
  countSelected();
}

// Parts that keep themselves live ---------------------------------------------------------------------------------------

async function refresh(part) {
  const html = await get(part.dataset.live);
  if (html === null) return;
  const values = new Set(all("input:checked", part).map((box) => box.value));
  const opened = new Set(all("details[open]", part).map((one) => all("details", part).indexOf(one)));
  const focused = part.contains(document.activeElement) ? document.activeElement.value : undefined;
  part.innerHTML = html;
  for (const box of all("input", part)) {
    box.checked = values.has(box.value);
    if (focused !== undefined && box.value === focused) box.focus();
  }
  all("details", part).forEach((one, index) => { one.open = opened.has(index); });
  countSelected();
}

const waitingParts = new Set();
function soon(part) {
  if (waitingParts.has(part)) return;
  waitingParts.add(part);
  setTimeout(async () => {
    waitingParts.delete(part);
    await refresh(part);
  }, 250);
}

function watch() {
  const source = new EventSource("/live");
  source.addEventListener("open", () => { // something may have been missed, since the page was made or the desk was away
    all("[data-live]").forEach(soon);
    if (queue && items().length < 2) fill();
  });
  source.addEventListener("change", (event) => {
    const kinds = event.data.split(" ");
    for (const part of all("[data-live]")) {
      if (part.dataset.kinds.split(" ").some((kind) => kinds.includes(kind))) soon(part);
    }
    if (queue && items().length < 2 && kinds.some((kind) => ["reviews", "verdicts", "held"].includes(kind))) fill();
  });
}

// What was clicked, and which key clicks what ---------------------------------------------------------------------------

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || button.disabled) return;
  const data = button.dataset;
  const label = data.label === undefined ? undefined : { label: JSON.parse(data.label) };
  if (data.verdict) answer(data.verdict, label);
  else if (data.bulk) bulk(data.bulk, label);
  else if (data.say) {
    const { event: id, seen } = find(".item").dataset;
    sayOf([{ id, seen }], data.say, label);
  } else if (data.open) open(data.open);
  else if (data.postpone) postpone(Number(data.postpone));
  else if (data.undo !== undefined) undo();
  else if (data.retry) redo("/trouble/retry", data.retry);
  else if (data.again) redo("/trouble/again", data.again);
});

const remembered = {
  // Browsers that keep nothing for a site throw.
  get(name) {
    try { return localStorage.getItem(name); } catch { return null; }
  },
  set(name, value) {
    try { localStorage.setItem(name, value); } catch { /* it lasts as long as the page */ }
  },
};

const keys = find("#keys"); // who speaks to his browser, or slips, turns them off: WCAG 2.1.4

function useKeys(isOn) {
  keys.checked = isOn;
  document.documentElement.dataset.keys = isOn ? "on" : "off";
  for (const button of all("button[data-key]")) {
    if (isOn) button.setAttribute("aria-keyshortcuts", button.dataset.key);
    else button.removeAttribute("aria-keyshortcuts");
  }
}

document.addEventListener("keydown", (event) => {
  if (!keys?.checked) return;
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || find("dialog[open]")) return;
  if (event.target.matches("input:not([type=checkbox]), textarea, select")) return;
  const button = all("button[data-key]").find((one) => one.dataset.key === event.key && !one.closest("[hidden]"));
  if (!button || button.disabled) return;
  event.preventDefault();
  button.click();
});

document.addEventListener("change", (event) => {
  if (event.target.matches(".lane input")) countSelected();
  if (event.target !== keys) return;
  remembered.set("keys", keys.checked ? "on" : "off");
  useKeys(keys.checked);
});

if (keys) useKeys(remembered.get("keys") !== "off");

if (queue) setInterval(tick, 1000);
if (find("nav")) watch();
