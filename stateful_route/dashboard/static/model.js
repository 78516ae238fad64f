// What the messages say, put together: the same as the server's board.

import { plain } from "./text.js";

const MOST_EVENTS = 400;
const MOST_POINTS = 900;

export class Model {
  constructor() {
    this.pods = new Map();
    this.events = [];
    this.points = [];
    this.number = 0;
    this.now = null;
    this.seenAt = null;
    this.error = null;
    this.deaf = null;
    this.interval = 1;
    this.unreadable = 0;
    this.ready = false;
  }

  // Take in a message; return whether it says all, and what has happened since the one before.
  takeIn(message) {
    const all = message.pods !== undefined;
    if (all) {
      this.pods = new Map(message.pods.map((pod) => [pod.podIndex, pod]));
      this.events = message.events;
      this.points = message.points;
      this.interval = message.interval;
    } else {
      for (const pod of message.changed) {
        this.pods.set(pod.podIndex, { ...this.pods.get(pod.podIndex), ...pod });
      }
      for (const index of message.gone) this.pods.delete(index);
      this.events.push(...message.events);
      if (this.events.length > MOST_EVENTS) this.events.splice(0, this.events.length - MOST_EVENTS);
      if (message.point) this.points.push(message.point);
      if (this.points.length > MOST_POINTS) this.points.splice(0, this.points.length - MOST_POINTS);
    }
    this.number = message.number;
    this.now = message.now;
    this.error = message.error;
    this.deaf = message.deaf;
    this.unreadable = message.unreadable;
    this.ready ||= message.seen;
    if (message.seen && !message.error) this.seenAt = message.now;
    return { all, events: all ? [] : message.events };
  }
}

export const OVER = new Set(["SHUTDOWN", "DEAD"]);

export function lookOf(pod) {
  if (pod.state === "DEAD" || pod.state === "SILENT") return "bad";
  if (pod.state === "SHUTDOWN") return "gone";
  return pod.state === "READY" && !pod.full && !pod.reclaiming ? "good" : "warn";
}

// A pod in words. Whatever is in its name, it is shown as text.
export function podOf(index, name) {
  return name === null || name === undefined ? `pod ${index}` : `pod ${index} (${plain(name)})`;
}

const STATES = {
  READY: "ready", DENY_NEW_CALL: "no new uids", DRAINING: "draining", SHUTDOWN: "left", DEAD: "dead", SILENT: "silent",
};

export function stateOf(pod) {
  const words = [STATES[pod.state] ?? "unknown"];
  if (pod.full && pod.alive) words.push("full");
  if (pod.reclaiming && pod.alive) words.push("reclaiming");
  return words.join(", ");
}
