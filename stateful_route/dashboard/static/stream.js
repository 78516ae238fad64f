// Hears messages, and begins again whenever nothing is heard: the browser does so only if the server was there.

const LATEST = 10000;

export class Stream {
  constructor(onMessage, onLost) {
    this.onMessage = onMessage;
    this.onLost = onLost;
    this.source = null;
    this.timer = null;
    this.pause = 1000;
    this.late = LATEST;
  }

  open(service) {
    this.close();
    this.service = service;
    this.source = new EventSource(`/api/stream?service=${encodeURIComponent(service)}`);
    this.source.onmessage = (event) => {
      this.pause = 1000;
      this.wait(this.late);
      this.onMessage(JSON.parse(event.data));
    };
    this.source.onerror = () => {
      this.onLost();
      this.again();
    };
    this.wait(this.late);
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  wait(milliseconds) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.onLost();
      this.again();
    }, milliseconds);
  }

  again() {
    this.close();
    this.timer = setTimeout(() => this.open(this.service), this.pause);
    this.pause = Math.min(2 * this.pause, 10000);
  }
}
