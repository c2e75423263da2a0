// What a token's text looks like: spaces, line ends, controls and invisible characters as signs, so that every token has
// a place that can be coloured, and none can turn the text around it over.
//
//   visible("\n    x") → "⏎····x";  inWords("\t") → "⇥ (U+0009)" for screen readers and tables

const SIGNS = new Map([[" ", "·"], ["\n", "⏎"], ["\r", "␍"], ["\t", "⇥"], ["\u00a0", "⍽"], ["\u007f", "␡"]]);
// What draws nothing by itself, or changes the direction of what follows; joiners inside emoji are kept.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00a0\u00ad\u061c\u115f\u1160\u180e\u2000-\u200c\u200e\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\ufff9-\ufffb]|[ ]|(?<!\p{Extended_Pictographic}\ufe0f?)\u200d|\p{Cs}/gu;

const codeOf = (sign) => `U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

function signOf(character) {
  const known = SIGNS.get(character);
  if (known !== undefined) return known;
  const code = character.codePointAt(0);
  return code < 0x20 ? String.fromCharCode(0x2400 + code) : `[${codeOf(character)}]`;
}

export const visible = (text) => (text === "" ? "∅" : text.replace(HIDDEN, signOf));

// The text as it is drawn, with the codes of what it hides.
export function inWords(text) {
  const hidden = [...new Set(text.match(HIDDEN) ?? [])].filter((one) => one !== " ").map(codeOf);
  return visible(text) + (hidden.length ? ` (${hidden.join(", ")})` : "");
}

export const breaksBefore = (text) => text.startsWith("\n");
export const breaksAfter = (text) => !text.startsWith("\n") && text.includes("\n");
