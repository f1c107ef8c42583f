// The search runs in a worker. Chromium starts none for pages from a disk: there, a hidden frame runs its script.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    #frame = document.createElement("iframe");
    #isReady;

    constructor(url) {
      super();
      const script = document.createElement("script");
      script.src = url;
      this.#frame.hidden = true;
      this.#frame.srcdoc = script.outerHTML;
      this.#isReady = new Promise((resolve) => this.#frame.addEventListener("load", resolve));
      this.#isReady.then(() => {
        this.#frame.contentWindow.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      });
      document.body.append(this.#frame);
    }

    postMessage(data) {
      this.#isReady.then(() => this.#frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
