// Where a uid is, and what has become of it.

import { id, lasting, made, plain, time } from "./text.js";

const KINDS = { temporary: "temporary: no pod has confirmed it", persistent: "persistent: its pod has confirmed it", grace: "grace: it was released, and may come back" };

export class Find {
  constructor(serviceOf, onMove) {
    this.serviceOf = serviceOf;
    this.onMove = onMove;
    this.mayAct = false;
    this.found = document.getElementById("found");
    this.uid = document.getElementById("uid");
    this.asked = 0;
    document.getElementById("find").addEventListener("submit", (event) => {
      event.preventDefault();
      this.look();
    });
  }

  async look() {
    const uid = this.uid.value, asked = ++this.asked;
    if (!uid) return;
    const query = new URLSearchParams({ uid });
    if (this.serviceOf()) query.append("service", this.serviceOf());
    let answer;
    try {
      const response = await fetch(`/api/where?${query}`, { signal: AbortSignal.timeout(15000) });
      answer = await response.json();
    } catch {
      answer = { error: "the dashboard does not answer" };
    }
    if (asked === this.asked) this.show(answer);
  }

  show(answer) {
    if (answer.error) {
      this.found.replaceChildren(made("p", { className: "said", text: plain(answer.error) }));
      return;
    }
    const parts = answer.places.map((place) => this.place(place, answer.histories[place.serviceName]));
    if (!parts.length) {
      parts.push(made("p", { className: "place" }, id(answer.uid), " has no link in any service."));
      for (const [service, history] of Object.entries(answer.histories)) {
        if (history.length) parts.push(made("div", { className: "place" }, id(service), this.history(history)));
      }
    }
    this.found.replaceChildren(...parts);
  }

  place(place, history) {
    const facts = made("dl");
    const say = (name, ...value) => facts.append(made("dt", { text: name }), made("dd", {}, ...value));
    if (place.podIndex === null) {
      say("link", "it cannot be read");
    } else {
      say("owner", `pod ${place.podIndex}, ${place.alive ? "alive" : lost(place)}`);
      say("kind", KINDS[place.kind] ?? plain(place.kind));
      say("epoch", made("span", { className: "id", text: String(place.epoch) }));
      say("age", `${lasting(place.age)} with this owner`);
      if (place.ttl !== null) say("ends in", lasting(place.ttl));
    }
    const box = made("div", { className: "place" }, made("strong", {}, id(place.uid)), " in ", id(place.serviceName), facts);
    if (this.mayAct && place.podIndex !== null) {
      const button = made("button", { text: "Move…" });
      button.type = "button";
      button.addEventListener("click", () => this.onMove(place));
      box.append(button);
    }
    if (history) box.append(this.history(history));
    return box;
  }

  history(changes) {
    const list = made("ol");
    list.ariaLabel = "history";
    for (const change of [...changes].reverse()) {
      let why = change.draining ? `${change.why}, its pod drained` : change.why;
      if (change.byOperator) why += ", by an operator";
      const epoch = change.epoch === null ? "" : `, epoch ${change.epoch}`;
      const words = `${pod(change.fromPod)} → ${pod(change.toPod)}, ${plain(why)}`;
      list.append(made("li", {}, time(change.at, true), " ", words, made("span", { className: "quiet", text: epoch })));
    }
    if (!changes.length) list.append(made("li", { className: "quiet", text: "no history is kept" }));
    return list;
  }
}

function pod(index) {
  return index === null ? "nobody" : `pod ${index}`;
}

function lost(place) {
  if (place.pod === null) return "which Redis does not know";
  return place.pod.alive ? "in a life that is over" : "not alive";
}
