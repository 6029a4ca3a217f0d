# Read at the beginning of llama.cpp's project, done at its end: many small files are compiled as few. Those that differ
# in what they define for themselves are left out.
set(common json.cpp jinja/caps.cpp jinja/lexer.cpp jinja/parser.cpp jinja/runtime.cpp jinja/string.cpp jinja/value.cpp)
set(mtmd mtmd-helper.cpp mtmd-helper-gen.cpp)
list(TRANSFORM common PREPEND "${CMAKE_CURRENT_SOURCE_DIR}/common/")
list(TRANSFORM mtmd PREPEND "${CMAKE_CURRENT_SOURCE_DIR}/tools/mtmd/")
cmake_language(DEFER CALL set_target_properties llama-common mtmd PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 16)
cmake_language(DEFER CALL set_source_files_properties ${common} TARGET_DIRECTORY llama-common
    PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
cmake_language(DEFER CALL set_source_files_properties ${mtmd} TARGET_DIRECTORY mtmd
    PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
