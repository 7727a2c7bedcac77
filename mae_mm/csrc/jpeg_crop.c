/* Decode one rectangle of a JPEG with libjpeg-turbo: rows above it are only read, not transformed, columns beside it
   neither, and rows below it are not even read. Built where libjpeg's headers are; datasets/jpeg.py uses it. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

/* Chroma is interpolated from neighbours, so a few more pixels are decoded than are asked for. */
#define MARGIN 8

struct failure {
    struct jpeg_error_mgr manager;
    jmp_buf place;
};

static void leave(j_common_ptr info) { longjmp(((struct failure *)info->err)->place, 1); }

/* Level -1 is corrupt data, which libjpeg itself would patch up. */
static void message(j_common_ptr info, int level) {
    if (level < 0) leave(info);
}

static int decode(const unsigned char *data, unsigned long size, int channels, JDIMENSION top, JDIMENSION left,
                  JDIMENSION height, JDIMENSION width, unsigned char *out) {
    struct jpeg_decompress_struct info;
    struct failure failure;
    JSAMPARRAY row;
    JDIMENSION first, start, columns, y;

    memset(&info, 0, sizeof(info));
    info.err = jpeg_std_error(&failure.manager);
    failure.manager.error_exit = leave;
    failure.manager.emit_message = message;
    if (setjmp(failure.place)) {
        jpeg_destroy_decompress(&info);
        return 0;
    }
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, (unsigned char *)data, size);
    jpeg_read_header(&info, TRUE);
    if (jpeg_has_multiple_scans(&info) || (info.jpeg_color_space != JCS_YCbCr && info.jpeg_color_space != JCS_GRAYSCALE)
        || top > info.image_height || height > info.image_height - top
        || left > info.image_width || width > info.image_width - left)
        leave((j_common_ptr)&info);
    info.out_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_start_decompress(&info);

    start = left > MARGIN ? left - MARGIN : 0;
    columns = left + width + MARGIN < info.image_width ? left + width + MARGIN - start : info.image_width - start;
    jpeg_crop_scanline(&info, &start, &columns); /* moves the start to a block's border */
    row = (*info.mem->alloc_sarray)((j_common_ptr)&info, JPOOL_IMAGE, info.output_width * channels, 1);
    first = top > MARGIN ? top - MARGIN : 0;
    if (first) jpeg_skip_scanlines(&info, first);
    while (info.output_scanline < top + height) {
        y = info.output_scanline;
        if (jpeg_read_scanlines(&info, row, 1) != 1) leave((j_common_ptr)&info);
        if (y >= top)
            memcpy(out + (size_t)(y - top) * width * channels, row[0] + (size_t)(left - start) * channels,
                   (size_t)width * channels);
    }
    jpeg_destroy_decompress(&info);
    return 1;
}

PyDoc_STRVAR(decode_crop_doc,
             "decode_crop(data, out, channels, top, left, height, width) -> bool\n\n"
             "Write a rectangle of a JPEG as (height, width, channels) uint8 into the buffer `out`. False, with `out` in\n"
             "any state, for a file that is damaged before the rectangle's end, progressive, neither YCbCr nor gray, or\n"
             "too small. `channels` is 3 (RGB) or 1 (gray).");

static PyObject *decode_crop(PyObject *Py_UNUSED(module), PyObject *args) {
    Py_buffer data, out;
    int channels, top, left, height, width, done;

    if (!PyArg_ParseTuple(args, "y*w*iiiii", &data, &out, &channels, &top, &left, &height, &width)) return NULL;
    if ((channels != 1 && channels != 3) || top < 0 || left < 0 || height < 1 || width < 1
        || height > JPEG_MAX_DIMENSION || width > JPEG_MAX_DIMENSION /* so that the product fits */
        || out.len != (Py_ssize_t)height * width * channels) {
        PyErr_SetString(PyExc_ValueError, "channels is 1 or 3, the rectangle lies at 0 or more, `out` has its size");
        done = -1;
    } else {
        Py_BEGIN_ALLOW_THREADS
        done = decode(data.buf, (unsigned long)data.len, channels, top, left, height, width, out.buf);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&out);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

static PyMethodDef methods[] = {{"decode_crop", decode_crop, METH_VARARGS, decode_crop_doc}, {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_jpeg_crop", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__jpeg_crop(void) { return PyModule_Create(&module); }
