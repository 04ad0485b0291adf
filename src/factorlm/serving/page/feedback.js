// Thumbs, edits and comments, sent to the server, which keeps them before it says so.

/** What is to be sent, from all that was said of a text so far. */
export function bodyOfFeedback({ response, index, prompt, request, choice }, state) {
  const { model, prompt: _prompt, messages: _messages, ...setting } = request;
  const body = { response_id: response.id, choice: index, prompt, text: choice.text, setting, model };
  if (state.thumb) body.thumb = state.thumb;
  if (state.edit !== undefined && state.edit !== choice.text) body.edit = state.edit;
  if (state.comment) body.comment = state.comment;
  return body;
}

/** What was said of a text, and `give(news)`, which adds to it, sends all of it and tells whether it was taken. */
export function feedbackOf(desk, about) {
  const state = {};
  const give = async (news) => {
    Object.assign(state, news);
    about.said.textContent = "…";
    try {
      const { id } = await desk.server.ask("v1/feedback", { body: bodyOfFeedback(about, state) });
      about.said.textContent = `kept as no. ${id}`;
      return true;
    } catch (error) {
      about.said.textContent = error.message;
      return false;
    }
  };
  return { state, give };
}
