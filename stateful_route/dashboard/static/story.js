// The time line: what has happened, the newest on top.

import { id, made, plain, time, whole } from "./text.js";

const MOST = 300;
const LOOKS = {
  began: "good", ready: "good", heard: "good", back: "good", hears: "good", restarted: "new", denies: "warn", drains: "warn",
  left: "", silent: "bad", dead: "bad", lost: "bad", deaf: "bad",
};
const TOLD = {
  began: () => "is there",
  ready: () => "takes new uids again",
  heard: () => "is heard again",
  restarted: () => "is in a new life, which takes over from the one before",
  denies: () => "takes no new uids",
  drains: (event) => `drains: it gives up ${links(event)}`,
  left: () => "has said goodbye",
  silent: (event) => `is silent for longer than its lease, with ${links(event)}`,
  dead: (event) => `is dead, with ${links(event)}: others take them over as they are asked for`,
};
const OF_REDIS = {
  lost: (event) => `Redis does not answer: ${plain(event.why)}`,
  back: () => "Redis answers again",
  deaf: (event) => `Changes are not heard: ${plain(event.why)}`,
  hears: () => "Changes are heard again",
};
const SHORT = {
  began: "there", ready: "ready again", heard: "heard again", restarted: "in new lives", denies: "taking no new uids",
  drains: "draining", left: "left", silent: "silent", dead: "dead",
};
const LINK_KINDS = { temporary: ", for now", grace: ", in grace", persistent: "" };

export const MARKS = { dead: "bad", silent: "bad", lost: "bad", drains: "warn", restarted: "new" };

function links(event) {
  return event.links === null || event.links === undefined ? "its links" : event.links === 1 ? "1 link" : `${whole(event.links)} links`;
}

export function words(event) {
  if (OF_REDIS[event.kind]) return [OF_REDIS[event.kind](event)];
  if (event.kind === "links") return [`and ${whole(event.count)} more links changed`];
  if (event.kind === "pods") return [`and ${whole(event.count)} more pods: ${SHORT[event.of] ?? plain(event.of)}`];
  if (event.kind !== "link") return [`pod ${event.podIndex} ${TOLD[event.kind]?.(event) ?? plain(event.kind)}`];
  if (event.linkKind === "unread") return [id(event.uid), " has changed, and cannot be read"];
  if (event.podIndex === null) return [id(event.uid), " has no owner"];
  return [id(event.uid), ` is with pod ${event.podIndex}${LINK_KINDS[event.linkKind] ?? ""}`];
}

export class Story {
  constructor() {
    this.list = document.getElementById("story");
    this.quiet = document.getElementById("quiet");
    document.getElementById("links-too").addEventListener("input", (event) => {
      this.list.classList.toggle("no-links", !event.target.checked);
    });
  }

  clear() {
    this.list.replaceChildren();
    this.quiet.hidden = false;
  }

  add(events) {
    for (const event of events) {
      const item = made("li", { className: LOOKS[event.of ?? event.kind] ?? "of-links" }, time(event.at), made("span", {}, ...words(event)));
      this.list.prepend(item);
    }
    while (this.list.childElementCount > MOST) this.list.lastChild.remove();
    this.quiet.hidden = this.list.childElementCount > 0;
  }
}
