// Changes: after a question, with the token, which is kept in the memory of this page only.

import { podOf } from "./model.js";
import { plain, whole } from "./text.js";

const part = (name) => document.getElementById(`ask-${name}`);

export class Orders {
  constructor(serviceOf, onDone) {
    this.serviceOf = serviceOf;
    this.onDone = onDone;
    this.dialog = document.getElementById("ask");
    this.order = null;
    this.token = "";
    part("no").addEventListener("click", () => this.dialog.close());
    part("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
  }

  podAct(pod) {
    const name = pod.state === "READY" ? "drain" : "undrain";
    const what = name === "drain"
      ? `It takes no new uids, and hands off or gives up its ${whole(pod.links)} ${pod.links === 1 ? "link" : "links"}; it goes on living.`
      : "It takes new uids again.";
    const words = `${name === "drain" ? "Drain" : "Undrain"} ${podOf(pod.podIndex, pod.podName)}`;
    this.ask({ name, service: this.serviceOf(), podIndex: pod.podIndex }, words, what);
  }

  move(place) {
    const what = `Pod ${place.podIndex} is asked to hand ${plain(place.uid)} off. Nothing is taken from it by force.`;
    this.ask({ name: "move", service: place.serviceName, uid: place.uid }, `Move ${plain(place.uid)}`, what);
  }

  ask(order, title, what) {
    this.order = order;
    part("title").textContent = `${title} of ${plain(order.service)}?`;
    part("what").textContent = what;
    part("yes").textContent = order.name === "move" ? "Move" : title;
    part("pod-part").hidden = order.name !== "move";
    part("pod").required = order.name === "move";
    part("pod").value = "";
    part("token").value = this.token;
    part("said").textContent = "";
    part("yes").disabled = false;
    this.dialog.showModal();
    (order.name === "move" ? part("pod") : this.token ? part("no") : part("token")).focus();
  }

  async send() {
    const { name, ...order } = this.order, sent = this.order;
    if (name === "move") order.podIndex = Number(part("pod").value);
    const token = part("token").value;
    part("yes").disabled = true;
    part("said").textContent = "It is at work…";
    const answer = await this.post(name, order, token);
    if (!answer.error) this.token = token;
    if (this.order !== sent) return;
    part("yes").disabled = false;
    if (answer.error) {
      part("said").textContent = plain(answer.error);
    } else if (answer.left || answer.lost) {
      const said = [];
      if (answer.left) said.push(`It goes on with ${whole(answer.left)} uids that are left.`);
      if (answer.lost) said.push(`The states of ${whole(answer.lost)} uids are lost.`);
      part("said").textContent = said.join(" ");
    } else {
      this.dialog.close();
    }
    this.onDone(order);
  }

  async post(name, order, token) {
    try {
      const response = await fetch(`/api/${name}`, {
        method: "POST",
        headers: { "content-type": "application/json", "x-dashboard-token": token },
        body: JSON.stringify(order),
        signal: AbortSignal.timeout(75000),
      });
      return await response.json();
    } catch (error) {
      return { error: error instanceof TypeError && /header|ISO-8859/i.test(error.message) ? "the token is wrong" : "the dashboard does not answer" };
    }
  }
}
