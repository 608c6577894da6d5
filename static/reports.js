// Reports: a message of somebody else's is shown to the admins, with a reason if its reader gives one.
"use strict";

function openReport(dialog) {
  const reason = $("report-reason"), failure = dialog.querySelector(".error");
  let message = null;
  dialog.querySelector("form").addEventListener("submit", async event => {
    if (event.submitter?.value !== "report") return;
    event.preventDefault();
    const why = await ask("POST", `${pathOf(message)}/report`, {reason: reason.value});
    failure.textContent = why; failure.hidden = !why;
    if (why) return;
    dialog.close();
    $("heard").textContent = "The message is reported.";
  });
  dialog.addEventListener("close", () => $("text")?.focus());
  return one => {
    message = one;
    const said = [textOf(one)?.textContent.slice(0, 300), ...namesOf(one)];
    $("report-message-text").textContent = said.filter(Boolean).join("\n");
    reason.value = "";
    failure.hidden = true;
    dialog.returnValue = "";
    dialog.showModal();
  };
}

if ($("actions")) messageActs.report = dialogs.act("report-message", openReport);
