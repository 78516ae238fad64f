// Puts the page together.

import { Curve } from "./curve.js";
import { Find } from "./find.js";
import { Model } from "./model.js";
import { Orders } from "./orders.js";
import { Pods } from "./pods.js";
import { MARKS, Story, words } from "./story.js";
import { Stream } from "./stream.js";
import { lasting, made, plain, rate, setText, whole } from "./text.js";

const SERVICES_EACH = 5000;
const ALOUD = new Set(["dead", "silent", "lost", "back"]);
const UNEVEN = 1.5, VERY_UNEVEN = 3;
const part = (name) => document.getElementById(name);

let model = new Model();
let service = null;
let lost = false;
let lostAt = null;
let waiting = false;
let fresh = [];
let all = false;

const orders = new Orders(() => service, () => find.uid.value && find.look());
const pods = new Pods((pod) => orders.podAct(pod));
const find = new Find(() => service, (place) => orders.move(place));
const story = new Story();
const imbalance = new Curve(part("imbalance"), [3], { low: 1, least: 0.2, format: (value) => value.toFixed(2) });
const rates = new Curve(part("rates"), [4, 5], { low: 0, least: 1, format: (value) => (value < 10 ? value.toFixed(1) : whole(value)) });
const stream = new Stream(
  (message) => {
    lost = false;
    lostAt = null;
    const taken = model.takeIn(message);
    all ||= taken.all;
    fresh = taken.all ? [] : [...fresh, ...taken.events].slice(-400);
    stream.late = Math.max(10000, 4000 * model.interval);
    soon();
  },
  () => {
    lost = true;
    lostAt ??= Date.now();
    soon();
  },
);

function soon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    show();
  });
}

function show() {
  trouble();
  if (model.now === null) return;
  if (all) story.clear();
  story.add(all ? model.events : fresh);
  aloud(all ? [] : fresh);
  all = false;
  fresh = [];
  pods.show(model.pods);
  part("none").hidden = model.pods.size > 0 || !model.ready;
  tiles();
  const marks = model.events.filter((event) => MARKS[event.kind]).map(({ at, kind }) => ({ at, look: MARKS[kind] }));
  imbalance.draw(model.points, model.now, model.interval, marks);
  rates.draw(model.points, model.now, model.interval, marks);
}

const shownTiles = new Map();

function tile(name, value, small = "", level = "") {
  let box = shownTiles.get(name);
  if (!box) {
    box = { whole: made("div"), value: made("span"), small: made("small") };
    box.whole.append(made("dt", { text: name }), made("dd", {}, box.value, box.small));
    part("tiles").append(box.whole);
    shownTiles.set(name, box);
  }
  setText(box.value, value);
  setText(box.small, small);
  if (box.whole.dataset.level !== level) box.whole.dataset.level = level;
}

function tiles() {
  const seen = [...model.pods.values()];
  const living = seen.filter((pod) => pod.alive);
  const awry = seen.filter((pod) => pod.state === "SILENT" || pod.state === "DEAD").length;
  const point = model.points[model.points.length - 1] ?? [];
  const oldest = living.reduce((worst, pod) => (!worst || pod.heartbeatAge / pod.lease > worst.heartbeatAge / worst.lease ? pod : worst), null);
  const uneven = point[3] ?? null;
  tile("Pods alive", whole(living.length), ` of ${whole(seen.length)}`, awry ? "bad" : "");
  tile("Links", whole(living.reduce((sum, pod) => sum + pod.links, 0)));
  tile("Fullest / mean", uneven === null ? "-" : uneven.toFixed(2), "", uneven > VERY_UNEVEN ? "bad" : uneven > UNEVEN ? "warn" : "");
  tile("Placements", rate(point[4]), " / s");
  tile("Link changes", rate(point[5]), " / s");
  tile("Oldest heartbeat", oldest ? lasting(oldest.heartbeatAge) : "-", "", oldest && oldest.heartbeatAge > oldest.lease / 2 ? "warn" : "");
  part("imbalance-words").textContent = uneven === null ? "not known now" : `${uneven.toFixed(2)} now`;
  part("rates-words").textContent = `${rate(point[4])} placements and ${rate(point[5])} changes a second now`;
}

function trouble() {
  const lines = [];
  if (lost) lines.push("The dashboard does not answer; this page tries again.");
  if (!lost && model.error) lines.push(`Redis does not answer: ${plain(model.error)}. The dashboard tries again.`);
  else if (!lost && model.deaf) lines.push(`Changes are not heard: ${plain(model.deaf)}.`);
  const isStale = lost || model.error !== null;
  let age = "";
  if (isStale && model.seenAt !== null) {
    const seconds = (lost ? (Date.now() - lostAt) / 1000 : 0) + model.now - model.seenAt;
    age = `Below is what was seen ${lasting(seconds)} ago.`;
  }
  if (!isStale && model.unreadable) lines.push(`${whole(model.unreadable)} entries of pods cannot be read.`);
  setText(part("trouble-words"), lines.join(" "));
  setText(part("trouble-age"), age);
  part("trouble").hidden = !lines.length;
  document.body.classList.toggle("stale", isStale);
  const pill = part("state");
  pill.dataset.state = isStale ? "lost" : model.now === null ? "waiting" : "live";
  setText(pill, lost ? "no dashboard" : model.error !== null ? "no Redis" : model.now === null ? "connecting" : "live");
}

function aloud(events) {
  const told = events.filter((event) => ALOUD.has(event.kind)).slice(-3);
  if (told.length) part("announce").textContent = told.map((event) => words(event).join("")).join(". ");
}

function choose(name) {
  service = name;
  model = new Model();
  [fresh, all] = [[], true];
  story.clear();
  pods.clear();
  document.title = `${plain(name)} · stateful_route`;
  const address = new URL(location.href);
  address.searchParams.set("service", name);
  history.replaceState(null, "", address);
  stream.open(name);
  soon();
}

async function services() {
  let answer;
  try {
    const first = service === null ? "?first" : "";
    answer = await (await fetch(`/api/services${first}`, { signal: AbortSignal.timeout(15000) })).json();
  } catch {
    return;
  }
  setText(part("namespace"), plain(answer.namespace));
  setText(part("version"), plain(answer.version));
  setText(part("rights"), answer.changes ? "who has the token may change something" : "read only");
  pods.mayAct = find.mayAct = answer.changes;
  const wanted = service ?? new URLSearchParams(location.search).get("service");
  const names = [...new Set([...answer.services, ...(wanted ? [wanted] : [])])];
  const chooser = part("service");
  if (names.join("\0") !== [...chooser.options].map((option) => option.value).join("\0")) {
    chooser.replaceChildren(...names.map((name) => {
      const option = made("option", { text: plain(name) });
      option.value = name;
      return option;
    }));
  }
  chooser.disabled = names.length === 0;
  if (service === null && names.length) choose(wanted ?? answer.first ?? names[0]);
  if (service !== null) chooser.value = service;
  if (service === null) empty(answer);
}

function empty(answer) {
  part("trouble").hidden = false;
  setText(part("trouble-words"), answer.error
    ? `Redis does not answer: ${plain(answer.error)}. The dashboard tries again.`
    : `No service was ever seen in namespace ${plain(answer.namespace)}. This page looks again.`);
}

part("service").addEventListener("input", (event) => choose(event.target.value));
addEventListener("pagehide", () => stream.close());
addEventListener("pageshow", (event) => event.persisted && service !== null && stream.open(service));
setInterval(services, SERVICES_EACH);
setInterval(() => (lost || model.error !== null) && soon(), 1000);
services();
