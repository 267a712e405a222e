/** A picture over the whole window. */
import { h, iconButton, toast } from "/app/dom.js";
import { t } from "/app/i18n.js";
import { fileName } from "/app/text.js";

/** @param {import("/app/media.js").Media} media @param {{file_id: string, name?: string}} body */
export async function showPicture(media, body) {
  const name = fileName(body);
  const picture = h("img", { class: "lightbox-image", alt: name });
  const dialog = h("dialog", { class: "lightbox", "aria-label": name || t("image"), onclick: (event) => { if (event.target === dialog) dialog.close(); }, onclose: () => dialog.remove() },
    h("header", { class: "lightbox-bar" }, h("span", { class: "lightbox-name" }, name),
      iconButton("download", t("download", { name }), () => media.save(body.file_id, name).catch(() => toast(t("fileFailed")))),
      iconButton("close", t("close"), () => dialog.close())),
    picture);
  document.body.append(dialog);
  dialog.showModal();
  try {
    picture.src = await media.url(body.file_id);
  } catch {
    dialog.close();
    toast(t("imageFailed"));
  }
}
