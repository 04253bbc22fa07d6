// The search runs in a Worker, which a page from a folder (file://) may not start: each file is an origin of its own.
// There its script runs in a hidden frame of the page. Only what the theme's search uses of a Worker is here.
if (location.protocol === "file:")
  window.Worker = class {
    onmessage = null
    onerror = null

    constructor(url) {
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.append(this.frame)
      this.scope = this.frame.contentWindow
      this.scope.postMessage = (data) => this.onmessage?.(new MessageEvent("message", { data }))
      const script = this.scope.document.createElement("script")
      script.src = new URL(url, location.href)
      this.loaded = new Promise((resolve) => (script.onload = resolve))
      script.onerror = () => this.onerror?.(new ErrorEvent("error", { message: `${url} cannot be loaded` }))
      this.scope.document.body.append(script)
    }

    postMessage(data) {
      this.loaded.then(() => this.scope.onmessage?.(new MessageEvent("message", { data })))
    }

    terminate() {
      this.frame.remove()
    }
  }
