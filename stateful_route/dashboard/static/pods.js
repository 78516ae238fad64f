// The table of pods. Rows are kept and changed in place, so that 1,000 of them stay smooth and the focus stays.

import { OVER, lookOf, podOf, stateOf } from "./model.js";
import { id, lasting, made, plain, setText, whole } from "./text.js";

// Name, heading, class, least width in em, share of the width that is left.
const COLUMNS = [
  ["podIndex", "Pod", "number", 3.4, 0.2], ["podName", "Name", "text", 6.8, 2], ["state", "State", "", 8.6, 0.6], ["links", "Links", "number links", 5.6, 1],
  ["load", "Load", "number", 3.8, 0.6], ["heartbeatAge", "Heartbeat", "number", 6, 0.6], ["zone", "Zone", "text", 8.8, 1],
  ["version", "Version", "text", 6.5, 1], ["capacity", "Capacity", "number", 5.2, 0.4], ["address", "Address", "text", 9, 1.5],
  ["placedTotal", "Placed", "number", 5, 0.6], ["act", "", "", 6.9, 0.2],
];
const NAMED = COLUMNS.slice(0, -1);
const SORTED_EACH = 5000; // milliseconds: rows that change places all the time cannot be read
const FALLING = new Set(["links", "load", "heartbeatAge", "capacity", "placedTotal"]);
const SHOWN = {
  all: () => true,
  alive: (pod) => pod.alive,
  trouble: (pod) => lookOf(pod) === "bad" || lookOf(pod) === "warn",
  draining: (pod) => pod.state === "DRAINING" || pod.state === "DENY_NEW_CALL",
  gone: (pod) => OVER.has(pod.state),
};
const LEAST_MAP = 25;
const words = new Intl.Collator("en", { numeric: true });

function compared(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
  return words.compare(String(a), String(b));
}

function leastOf(columns) {
  return columns.reduce((sum, [, , , least]) => sum + least, 0);
}

class Row {
  constructor(onAct) {
    this.tr = made("tr");
    this.tr.role = "row";
    this.cells = {};
    for (const [name, , kind] of NAMED) {
      const cell = made(name === "podIndex" ? "th" : "td", { className: `${kind} c-${name}` });
      cell.role = name === "podIndex" ? "rowheader" : "cell";
      this.cells[name] = cell;
      this.tr.append(cell);
    }
    this.state = made("span", { className: "state" });
    this.cells.state.append(this.state);
    this.number = made("span");
    this.gauge = made("span");
    this.cells.links.append(this.number, made("span", { className: "gauge" }, this.gauge));
    this.button = made("button");
    this.button.type = "button";
    this.button.addEventListener("click", () => onAct(this.pod));
    const act = made("td", { className: "c-act" }, this.button);
    act.role = "cell";
    this.tr.append(act);
    this.pod = null;
    this.share = -1;
  }

  set(pod, fullest) {
    const before = this.pod;
    const share = pod.maxLinks ? Math.min(1, pod.links / pod.maxLinks) : fullest ? pod.links / pod.capacity / fullest : 0;
    if (share !== this.share) {
      this.gauge.style.width = `${(100 * share).toFixed(1)}%`;
      this.share = share;
    }
    if (before === pod) return;
    this.pod = pod;
    const { cells } = this;
    setText(cells.podIndex, String(pod.podIndex));
    this.tr.dataset.look = lookOf(pod);
    setText(this.state, stateOf(pod));
    setText(this.number, pod.maxLinks === null ? whole(pod.links) : `${whole(pod.links)} / ${whole(pod.maxLinks)}`);
    setText(cells.load, whole(pod.load));
    setText(cells.placedTotal, whole(pod.placedTotal));
    setText(cells.capacity, String(pod.capacity));
    setText(cells.heartbeatAge, lasting(pod.heartbeatAge));
    const late = OVER.has(pod.state) ? "" : pod.heartbeatAge >= pod.lease ? "bad" : pod.heartbeatAge > pod.lease / 2 ? "warn" : "";
    if (cells.heartbeatAge.dataset.late !== late) cells.heartbeatAge.dataset.late = late;
    for (const name of ["podName", "zone", "version", "address"]) this.words(name, pod[name], before?.[name]);
    const named = [pod.podName, pod.address].filter((text) => text !== null).map(plain).join(" at ");
    if (cells.podName.title !== named) cells.podName.title = named;
    this.button.hidden = !pod.alive;
    const act = pod.state === "READY" ? "Drain" : "Undrain";
    setText(this.button, `${act}…`);
    this.button.setAttribute("aria-label", `${act} ${podOf(pod.podIndex, pod.podName)}`);
  }

  words(name, value, before) {
    if (value === before) return;
    const cell = this.cells[name];
    cell.replaceChildren(...(value === null ? [] : [id(value)]));
    cell.title = value === null ? "" : plain(value);
  }
}

export class Pods {
  constructor(onAct) {
    this.onAct = onAct;
    this.rows = new Map();
    this.marks = new Map();
    this.order = [];
    this.placed = new Set();
    this.sortedAt = 0;
    this.sort = "podIndex";
    this.falling = false;
    this.body = document.getElementById("rows");
    this.table = document.getElementById("table");
    this.filter = document.getElementById("filter");
    this.which = document.getElementById("which");
    this.map = document.getElementById("map");
    this.pods = new Map();
    this.mayAct = false;
    this.headings();
    for (const control of [this.filter, this.which]) control.addEventListener("input", () => this.arrange(true));
    this.body.addEventListener("focusout", () => requestAnimationFrame(() => this.arrange()));
    this.map.addEventListener("click", (event) => this.point(Number(event.target.dataset.index)));
  }

  headings() {
    const head = document.getElementById("head");
    for (const [name, title, kind] of NAMED) {
      const button = made("button", { text: title });
      button.type = "button";
      const cell = made("th", { className: `${kind} c-${name}` }, button);
      cell.role = "columnheader";
      if (name === this.sort) cell.ariaSort = "ascending";
      button.addEventListener("click", () => {
        this.falling = this.sort === name ? !this.falling : FALLING.has(name);
        this.sort = name;
        for (const other of head.children) other.removeAttribute("aria-sort");
        cell.ariaSort = this.falling ? "descending" : "ascending";
        this.arrange(true);
      });
      head.append(cell);
    }
    const act = made("th", { className: "c-act" }, made("span", { className: "unseen", text: "Change" }));
    act.role = "columnheader";
    head.append(act);
  }

  clear() {
    this.show(new Map());
  }

  show(pods) {
    this.pods = pods;
    for (const [index, row] of this.rows) {
      if (pods.has(index)) continue;
      row.tr.remove();
      this.rows.delete(index);
    }
    const living = [...pods.values()].filter((pod) => pod.alive);
    const fullest = Math.max(0, ...living.map((pod) => pod.links / pod.capacity));
    for (const [index, pod] of pods) {
      let row = this.rows.get(index);
      if (!row) this.rows.set(index, (row = new Row(this.onAct)));
      row.set(pod, fullest);
    }
    this.columns();
    this.arrange();
    this.paint(fullest);
  }

  // Columns in which there is nothing are not there.
  columns() {
    const all = [...this.pods.values()];
    const empty = new Set(["podName", "zone", "version"].filter((name) => all.every((pod) => pod[name] === null)));
    if (all.every((pod) => pod.podName !== null || pod.address === null)) empty.add("address"); // it is said with the name
    if (all.every((pod) => pod.capacity === 1)) empty.add("capacity");
    if (!this.mayAct) empty.add("act");
    const room = this.table.parentElement.clientWidth / Number.parseFloat(getComputedStyle(this.table).fontSize);
    let shown = COLUMNS.filter(([name]) => !empty.has(name));
    if (leastOf(shown) > room && this.sort !== "placedTotal") empty.add("placedTotal"); // it is the one to be missed least
    shown = shown.filter(([name]) => !empty.has(name));
    const names = shown.map(([name]) => name).join();
    if (names === this.shownColumns) return;
    this.shownColumns = names;
    for (const [name] of COLUMNS) this.table.classList.toggle(`no-${name}`, empty.has(name));
    const width = leastOf(shown);
    this.table.style.setProperty("--least", `${width}em`);
    this.table.style.setProperty("--columns", shown.map(([, , , least, share]) => `minmax(${least}em, ${share}fr)`).join(" "));
  }

  // Whoever has the focus in a row keeps it where it is: rows change places once it has gone.
  arrange(now = false) {
    const wanted = this.filter.value.trim().toLowerCase();
    const isShown = SHOWN[this.which.value];
    const shown = [...this.rows.values()].filter(({ pod }) => isShown(pod) && matches(pod, wanted));
    setText(document.getElementById("count"), shown.length === this.rows.size ? "" : `${whole(shown.length)} of ${whole(this.rows.size)}`);
    if (!now && this.body.contains(document.activeElement)) return;
    const asBefore = shown.length === this.order.length && shown.every((row) => this.placed.has(row));
    if (!now && asBefore && performance.now() - this.sortedAt < SORTED_EACH) return;
    const sign = this.falling ? -1 : 1;
    const value = this.sort === "state" ? stateOf : (pod) => pod[this.sort];
    const keys = new Map(shown.map((row) => [row, value(row.pod)]));
    shown.sort((a, b) => {
      const [first, second] = [keys.get(a), keys.get(b)];
      const bySort = first === null || second === null ? compared(first, second) : sign * compared(first, second);
      return bySort || a.pod.podIndex - b.pod.podIndex;
    });
    this.sortedAt = performance.now();
    this.place(shown);
  }

  place(shown) {
    this.placed = new Set(shown);
    for (const row of this.order) if (!this.placed.has(row)) row.tr.remove();
    let next = this.body.firstChild;
    for (const row of shown) {
      if (row.tr === next) next = next.nextSibling;
      else this.body.insertBefore(row.tr, next);
    }
    this.order = shown;
  }

  // All pods at a glance, where the table is long.
  paint(fullest) {
    const many = this.pods.size >= LEAST_MAP;
    document.getElementById("map-part").hidden = !many;
    for (const [index, mark] of this.marks) {
      if (many && this.pods.has(index)) continue;
      mark.remove();
      this.marks.delete(index);
    }
    if (!many) return;
    const counts = {};
    const sorted = [...this.pods].sort(([a], [b]) => a - b);
    const added = sorted.filter(([index]) => !this.marks.has(index));
    for (const [index] of added) {
      const mark = made("i");
      mark.dataset.index = index;
      this.marks.set(index, mark);
    }
    if (added.length) this.map.append(...sorted.map(([index]) => this.marks.get(index)));
    for (const [index, pod] of sorted) {
      const mark = this.marks.get(index);
      const state = stateOf(pod);
      counts[state] = (counts[state] ?? 0) + 1;
      const look = lookOf(pod), fill = fullest ? (pod.links / pod.capacity / fullest).toFixed(2) : "0";
      if (mark.dataset.look !== look) mark.dataset.look = look;
      if (mark.dataset.fill !== fill) {
        mark.dataset.fill = fill;
        mark.style.setProperty("--fill", fill);
      }
      const title = `${podOf(index, pod.podName)}: ${state}, ${whole(pod.links)} links`;
      if (mark.title !== title) mark.title = title;
    }
    this.map.ariaLabel = Object.entries(counts).map(([state, count]) => `${count} ${state}`).join("; ");
  }

  point(index) {
    const row = this.rows.get(index);
    if (!row) return;
    if (!row.tr.isConnected) {
      this.filter.value = "";
      this.which.value = "all";
      this.arrange(true);
    }
    this.pointed?.classList.remove("pointed");
    this.pointed = row.tr;
    row.tr.classList.add("pointed");
    row.tr.scrollIntoView({ block: "center" });
  }
}

function matches(pod, wanted) {
  if (!wanted) return true;
  const exact = Number(wanted);
  if (Number.isInteger(exact) && pod.podIndex === exact) return true;
  const texts = [pod.podName, pod.zone, pod.version, pod.address].filter((text) => text !== null);
  return texts.some((text) => text.toLowerCase().includes(wanted)) || stateOf(pod).includes(wanted);
}
