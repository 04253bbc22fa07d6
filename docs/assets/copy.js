// The Copy button of a block of commands copies what a reader types: neither the prompt nor what is printed.
document.addEventListener("click", (event) => {
  const button = event.target.closest(".md-clipboard, .md-code__button")
  const block = button?.closest(".highlight")
  if (!block?.querySelector(".gp")) return
  const lines = block.querySelector("pre > code").innerText.split("\n")
  const commands = lines.filter((line) => line.startsWith("$ ")).map((line) => line.slice(2))
  navigator.clipboard.writeText(commands.join("\n"))
  event.stopImmediatePropagation()
}, true)
