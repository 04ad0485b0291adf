// Server-sent events, and texts put together from the pieces that they bring.

/** Splits what came into the data of whole events and the rest. */
export function events(buffer) {
  const blocks = buffer.split(/\r?\n\r?\n/);
  const rest = blocks.pop();
  const data = blocks.map((block) =>
    block
      .split(/\r?\n/)
      .filter((line) => line.startsWith("data:"))
      .map((line) => line.slice(5).replace(/^ /, ""))
      .join("\n"),
  );
  return { data: data.filter((text) => text !== ""), rest };
}

/** The objects of an event stream, as they come, until [DONE]. */
export async function* objects(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  let isDone = false;
  try {
    for (;;) {
      const { done, value } = await reader.read(); // to the very end, so that the connection can be used again
      const found = events(buffer + (done ? "\n\n" : value));
      buffer = found.rest;
      for (const text of found.data) {
        isDone ||= text === "[DONE]";
        if (!isDone) yield JSON.parse(text);
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** A response that has not begun. */
export function emptyResponse(n) {
  const choice = () => ({ text: "", tokens: [], finishReason: "", about: {} });
  return { id: "", choices: Array.from({ length: n }, choice), usage: null };
}

/** Takes in one chunk (or a whole response) and gives the numbers of the choices that changed. */
export function absorb(response, chunk) {
  if (chunk.error) throw new Error(chunk.error.message ?? "the server broke off");
  response.id ||= chunk.id ?? "";
  if (chunk.usage) response.usage = chunk.usage;
  return (chunk.choices ?? []).map((piece) => {
    const choice = response.choices[piece.index];
    const text = piece.text ?? piece.delta?.content ?? piece.message?.content ?? "";
    choice.text += text;
    const { tokens, attribution, ...about } = piece.factorlm ?? {};
    // A character may be spread over several tokens; it became certain with the last of them, and stands there.
    if (tokens?.length === 1) tokens[0].text = text;
    if (tokens) choice.tokens.push(...tokens);
    if (attribution && choice.tokens.length === 0) choice.tokens.push(...attribution);
    Object.assign(choice.about, about);
    if (piece.finish_reason) choice.finishReason = piece.finish_reason;
    return piece.index;
  });
}

/** The text of a token by itself; not what it adds to the text, where a character is spread over several. */
export const pieceOf = (token) => token.piece ?? "";

/** What a token adds to the text. */
export const textOf = (token) => token.text ?? pieceOf(token);

/** Whether the last token of a choice is the one that ends texts, which is no part of its text. */
export function endsWithEnd({ text, tokens, finishReason }) {
  return finishReason === "stop" && tokens.length > 0 && tokens.slice(0, -1).map(textOf).join("") === text;
}
