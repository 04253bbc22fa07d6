// What is wrong on the page that is open: a list of texts. release/layout.py runs it in Chromium, at each width.
(() => {
  const found = [], wide = innerWidth > 960
  const content = document.querySelector(".md-content")
  const all = (selector) => [...content.querySelectorAll(selector)]
  const name = (element) => element.textContent.trim().replace(/\s+/g, " ").slice(0, 60)
  const say = (...words) => found.push(words.join(" "))

  // Each match of a pattern in the texts of an element, with the rectangles that it is drawn in.
  const drawn = function* (element, pattern) {
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT)
    const whole = document.createRange(), starts = []
    let text = ""
    for (let node; (node = walker.nextNode()); text += node.data) starts.push([text.length, node])
    const at = (index) => {
      const [start, node] = starts.findLast(([start]) => start <= index)
      return [node, index - start]
    }
    for (const match of text.matchAll(pattern)) {
      whole.setStart(...at(match.index))
      const [node, last] = at(match.index + match[0].length - 1)
      whole.setEnd(node, last + 1)
      const rects = [...whole.getClientRects()].filter((rect) => rect.width)
      yield { text: match[0], rects, width: rects.reduce((sum, rect) => sum + rect.width, 0) }
    }
  }
  const lines = (rects) => new Set(rects.map((rect) => Math.round(rect.bottom / 4))).size

  if (document.documentElement.scrollWidth > innerWidth + 1) {
    const culprit = all("*").find((one) => one.getBoundingClientRect().right > innerWidth + 1 && !one.closest("pre, table"))
    say("wider than the window:", culprit ? culprit.tagName + " " + name(culprit) : "?")
  }

  // A block of Python scrolls on a phone, and so does what is printed in columns; a wide window shows all of both. What
  // a reader types wraps, but neither within an option nor within a comment that a wide window has no place for.
  for (const code of all("pre > code")) {
    const typed = code.closest(".highlight:has(.gp)"), columns = code.closest(".columns"), output = code.closest(".output")
    if (code.scrollWidth > code.clientWidth + 1 && (wide || typed || (output && !columns)))
      say("clipped:", code.textContent.split("\n").sort((a, b) => b.length - a.length)[0])
    if (wide && !typed && !output && code.querySelector("[class]:not(.word)")) { // in a language, so code
      code.style.whiteSpace = "pre"
      if (code.scrollWidth > code.clientWidth + 1)
        say("a line of code wraps:", code.textContent.split("\n").sort((a, b) => b.length - a.length)[0])
      code.style.whiteSpace = ""
    }
    if (!typed) continue
    for (const { text, rects } of drawn(code, /(?<!\S)--?[a-z][\w-]*/g))
      if (lines(rects) > 1) say("an option is broken:", text, "in", name(code))
    if (wide) for (const comment of code.querySelectorAll(".c1"))
      if (lines([...comment.getClientRects()]) > 1) say("a comment wraps:", name(comment))
  }

  // A name is copied: no line ends within a word, an option, or a part of an id or a path.
  for (const code of all(":not(pre) > code")) {
    if (code.getClientRects().length < 2) continue
    const column = code.closest("p, li, td, th, h1, h2, h3, h4, dd, dt, div").clientWidth
    for (const { text, rects, width } of drawn(code, /[\w.@-]*\w[\w.-]*/g))
      if (lines(rects) > 1 && width < 0.85 * column) say("a word is broken:", text, "in", name(code))
  }
  for (const { text, rects } of drawn(content, /\b\d{4}-\d\d(-\d\d)?\b/g))
    if (lines(rects) > 1) say("a date is broken:", text)

  for (const picture of all('img[src$=".svg"]')) // on a phone it scrolls
    if (picture.clientWidth < 500) say("a picture is too small to be read:", picture.alt)

  for (const heading of all("h1, h2, h3, h4")) {
    const range = document.createRange()
    range.selectNodeContents(heading)
    const link = heading.querySelector(".headerlink")
    if (link) range.setEndBefore(link)
    const gap = heading.getBoundingClientRect().bottom - range.getBoundingClientRect().bottom
    if (gap > 0.8 * parseFloat(getComputedStyle(heading).fontSize)) say("a gap below the heading:", name(heading))
  }

  for (const table of all("table:not([class])")) {
    const heads = [...table.tHead.rows[0].cells], rows = [...table.tBodies[0].rows]
    if (heads.slice(1).some((head) => !name(head))) say("a column has no heading:", name(table))
    // A sentence in a column as narrow as its longest word makes a row of many lines.
    for (const cell of rows.flatMap((row) => [...row.cells]))
      if (cell.textContent.length > 24 && cell.clientWidth < 100) say("a sentence is squeezed:", name(cell))
    heads.forEach((head, index) => {
      const cells = rows.map((row) => row.cells[index]).filter((cell) => name(cell))
      const number = (cell) => /^\$?\d[\d,]*(\.\d+)?( (ms|µs|MB))?$|^(\?|unlimited)$/.test(name(cell))
      if (index && cells.length && cells.every(number) && cells.some((cell) => getComputedStyle(cell).textAlign !== "right"))
        say("a column of numbers is not aligned to the right:", name(head))
    })
    // On a phone the number stands beside what it belongs to, also when the table is scrolled.
    const scrolled = table.closest(".md-typeset__scrollwrap")
    if (!scrolled || wide && heads.length < 5) continue
    if (wide) {
      if (scrolled.scrollWidth > scrolled.clientWidth + 1) say("a table is wider than its column:", name(heads[0]))
    } else if (heads.length >= 5) {
      scrolled.scrollLeft = 1000
      const { left, right } = rows[0].cells[0].getBoundingClientRect()
      if (left < 0 || right > 0.6 * innerWidth) say("what the numbers belong to is out of sight:", name(rows[0].cells[0]))
      scrolled.scrollLeft = 0
    }
  }

  // Readable: the contrast of a text with what is behind it, as WCAG 2 counts it.
  const parsed = (color) => {
    const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true })
    context.fillStyle = color
    context.fillRect(0, 0, 1, 1)
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data
    return [r, g, b, a / 255]
  }
  const memo = new Map()
  const rgba = (color) => memo.get(color) ?? memo.set(color, parsed(color)).get(color)
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]))
  const behind = (element) => {
    if (!element) return [255, 255, 255]
    const color = rgba(getComputedStyle(element).backgroundColor)
    return color[3] === 1 ? color.slice(0, 3) : over(color, behind(element.parentElement))
  }
  const light = (color) => color.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0)
  const dim = new Map()
  for (const element of all("*")) {
    if (element.closest("svg, .headerlink, script") || !element.getClientRects().length) continue
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())
    if (!own && !element.matches(".md-code__button")) continue
    const back = behind(element), style = getComputedStyle(element)
    const [a, b] = [light(over(rgba(style.color), back)), light(back)].sort((x, y) => y - x)
    const ratio = (a + 0.05) / (b + 0.05)
    if (ratio < (parseFloat(style.fontSize) >= 24 || !own ? 3 : 4.5)) dim.set(`${style.color} ${element.className}`, [ratio, element])
  }
  for (const [ratio, element] of dim.values())
    say("hard to read, contrast", ratio.toFixed(1) + ":", element.className || element.tagName, name(element))

  // The Copy button of a block of commands copies the commands alone; what a block prints has none.
  const copied = (text) => {
    if (text.split("\n").some((line) => !line || line.startsWith("$ "))) say("the Copy button copies:", text)
    return Promise.resolve()
  }
  Object.defineProperty(navigator, "clipboard", { value: { writeText: copied, write: copied }, configurable: true })
  for (const button of all(".highlight:has(.gp) button[data-md-type=copy]")) button.click()
  for (const button of all(".output button[data-md-type=copy]"))
    if (button.getClientRects().length) say("an output has a Copy button:", name(button.closest(".output")))
  return [...new Set(found)]
})()
